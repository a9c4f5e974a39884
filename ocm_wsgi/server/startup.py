"""What gunicorn's master checks before it serves. Each reason not to start is one sentence and an exit code."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from gunicorn.sock import TCP6Socket, TCPSocket

from ocm_wsgi.config import Config
from ocm_wsgi.errors import OcmError, ServerNotStarted
from ocm_wsgi.server import instance, listener
from ocm_wsgi.storage import state_folder
from ocm_wsgi.telemetry import multiprocess

_T = TypeVar("_T")
_DEFAULT_WORKERS = 2
# As gunicorn does for its own sockets: a server that is being replaced may need a moment to close its socket.
_ATTEMPTS = 5
_PAUSE_SECONDS = 1.0
_REMEDIES = {
    errno.EADDRINUSE: "Stop the program that listens there, or choose another port with listen_port or --bind.",
    errno.EACCES: "Ports below 1024 are for root; choose another one with listen_port or --bind.",
    errno.EADDRNOTAVAIL: "Choose an address of this machine with listen or --bind.",
}


@contextlib.contextmanager
def refusing(arbiter: Any) -> Iterator[None]:
    """Log an error of ours as the reason not to start, and exit with its exit code."""
    try:
        yield
    except OcmError as exc:
        arbiter.log.error("%s", exc.message)
        multiprocess.remove()
        raise SystemExit(exc.exit_code) from None


def worker_count(environ: Mapping[str, str]) -> int:
    """Return the number of workers that ``WEB_CONCURRENCY`` sets, or two.

    :raises ServerNotStarted: it is no number, or less than 1.
    """
    given = environ.get("WEB_CONCURRENCY", "").strip()
    if not given:
        return _DEFAULT_WORKERS
    if not (given.isascii() and given.isdigit()) or int(given) < 1:
        raise ServerNotStarted(f"WEB_CONCURRENCY is {given!r}: it must be a number of workers, at least 1.")
    return int(given)


def require_workers(count: int) -> None:
    """Make sure that there is a worker: without one, connections would be accepted by the system and never served.

    :raises ServerNotStarted: there is none.
    """
    if count < 1:
        raise ServerNotStarted(f"The number of workers is {count}: it must be at least 1.")


def claim_state(arbiter: Any, config: Config) -> None:
    """Make sure that this process can use the state, and hold it until the server stops accepting requests.

    :raises StateUnusable: it cannot, or another instance of the service uses it.
    """
    state_folder.require_usable(config.state_path)
    instance.claim(
        config.state_path,
        is_shared=config.reuse_addr or arbiter.cfg.reuse_port,
        is_successor=bool(arbiter.master_pid),
    )
    stop = arbiter.stop

    def release_and_stop(graceful: bool = True) -> None:
        # A successor may start while turns end here, as gunicorn closes the listening sockets now.
        instance.release()
        stop(graceful)

    arbiter.stop = release_and_stop


def open_listener(arbiter: Any, config: Config, address: str) -> TCPSocket:
    """Open the socket that the configuration describes, for gunicorn.

    :raises ServerNotStarted: that is not possible.
    """
    opened = _when_free(arbiter, address, lambda: listener.open_listener(config, backlog=arbiter.cfg.backlog))
    kind = TCP6Socket if ipaddress.ip_address(config.listen).version == 6 else TCPSocket
    return kind(opened.getsockname(), arbiter.cfg, arbiter.log, fd=opened.detach())


def require_free_addresses(arbiter: Any) -> None:
    """Make sure that gunicorn can open the sockets of ``--bind``, which it would retry with two lines each time.

    :raises ServerNotStarted: it cannot.
    """
    is_inherited = arbiter.master_pid or os.environ.get("LISTEN_PID") == str(os.getpid())
    if is_inherited or arbiter.cfg.reuse_port:
        return
    for address in arbiter.cfg.address:
        if isinstance(address, tuple):
            _when_free(arbiter, f"{address[0]}:{address[1]}", partial(_try_to_bind, address))
        elif isinstance(address, str) and _is_served(address):
            raise ServerNotStarted(f"Another server listens at unix:{address}. Stop it, or choose another path.")


def suggest_next_step(arbiter: Any, config: Config) -> None:
    """Log what to do next if nobody has signed in yet, to any account."""
    # Not Path.exists(), which raises an exception where this user may not look.
    if any(os.path.exists(account.credential_path) for account in config.accounts):
        return
    first = config.accounts[0]
    arbiter.log.warning(
        "There is no Codex credential at %s yet. Next step: ocm login%s (a running service uses it from the next "
        "request on)",
        first.credential_path,
        f" --credential {first.tag}" if len(config.accounts) > 1 else "",
    )


def _when_free(arbiter: Any, address: str, attempt: Callable[[], _T]) -> _T:
    """Return what an attempt to listen returns, retrying for a while as long as the address is in use."""
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            return attempt()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not remaining:
                remedy = _REMEDIES.get(exc.errno or 0, "")
                raise ServerNotStarted(f"Cannot listen at {address}: {exc}. {remedy}".rstrip()) from exc
            if remaining == _ATTEMPTS - 1:
                arbiter.log.warning("Cannot listen at %s: %s; retrying for %d s", address, exc, remaining)
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def _try_to_bind(address: tuple[Any, ...]) -> None:
    family = socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        # Two sockets may bind the same address with SO_REUSEADDR, but only one may listen.
        probe.listen()


def _is_served(path: str) -> bool:
    """Return whether a server listens on a Unix socket. gunicorn would take its place without asking."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PAUSE_SECONDS)
        return probe.connect_ex(path) == 0
