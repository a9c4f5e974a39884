"""gunicorn's hooks and settings, for :mod:`ocm_wsgi.gunicorn_conf`."""

from __future__ import annotations

import ipaddress
import os
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn import glogging

from ocm_wsgi.admission.measurability import require_measurable_configuration
from ocm_wsgi.config import Config, current
from ocm_wsgi.config.current import config
from ocm_wsgi.errors import ServerNotStarted
from ocm_wsgi.gateway.environ import remember_fields
from ocm_wsgi.pools.members import require_subscriptions
from ocm_wsgi.server import instance, orphans, startup
from ocm_wsgi.telemetry import multiprocess
from ocm_wsgi.telemetry.logs import configure_logging
from ocm_wsgi.tls import contexts

_SETTINGS_MODULE = "ocm_wsgi.gunicorn_conf"
_TERMINATION_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class _State:
    """State that hooks share in gunicorn's master."""

    server_context: ssl.SSLContext | None = None
    has_opened_socket = False
    missing_internals: list[str] = []  # noqa: RUF012 - the class is never instantiated


def reload() -> None:
    """Load the configuration again, and make the TLS context that belongs to it; see :func:`current.reload`."""
    current.reload(_prepare)


def _prepare(loaded: Config) -> None:
    require_measurable_configuration(loaded)
    require_subscriptions(loaded)
    _State.server_context = contexts.server_context(loaded.tls) if loaded.tls else None


class Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger, with our line format from the first line on."""

    def setup(self, cfg: Any) -> None:
        """Set up the handlers."""
        super().setup(cfg)
        configure_logging(config().log_format)


def bind() -> str:
    """Return the address to listen on, in gunicorn's notation; it never changes after the start.

    Otherwise gunicorn would close its socket at HUP, exit if it cannot bind the new address, and open a plain socket
    without the listen fields.
    """
    first = current.initial_config()
    host = f"[{first.listen}]" if ":" in first.listen else first.listen
    return f"{host}:{first.listen_port}"


def workers() -> int:
    """Return the number of workers that ``WEB_CONCURRENCY`` sets, or two. If that is invalid, print so and exit."""
    try:
        return startup.worker_count(os.environ)
    except ServerNotStarted as exc:
        print(f"Error: {exc.message}", file=sys.stderr, flush=True)
        raise SystemExit(exc.exit_code) from None


def certfile() -> str | None:
    """Return gunicorn's ``certfile``: a path that exists if there is to be TLS, as gunicorn checks no more.

    The certificate itself is in :func:`ssl_context`, so that an inline key is never written to disk.
    """
    return os.devnull if config().tls else None


def ssl_context(_conf: Any, _default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the TLS context; gunicorn calls this for each connection."""
    assert _State.server_context is not None
    return _State.server_context


def worker_class() -> str:
    """Return gunicorn's ``worker_class``: ours, or gthread if this gunicorn is not compatible with ours."""
    # Imported only here: with an incompatible gunicorn the import itself may fail.
    try:
        from ocm_wsgi.server import compatibility, worker  # noqa: F401 - the import is part of the check
    except (ImportError, AttributeError) as exc:
        _State.missing_internals = [str(exc)]
    else:
        _State.missing_internals = compatibility.missing_internals()
    return "gthread" if _State.missing_internals else "ocm_wsgi.server.worker.RelayWorker"


def on_starting(arbiter: Any) -> None:
    """Refuse to start where that cannot work. Open the socket: gunicorn opens its own only if there is none yet."""
    block_signals_during_fork()
    _forget_settings()
    orphans.adopt()
    _warn(arbiter)
    with startup.refusing(arbiter):
        startup.require_workers(arbiter.cfg.workers)
        startup.claim_state(arbiter, config())
        if decides_address(arbiter):
            arbiter.LISTENERS = [startup.open_listener(arbiter, config(), bind())]
            _State.has_opened_socket = True
        else:
            startup.require_free_addresses(arbiter)
    startup.suggest_next_step(arbiter, config())


def when_ready(arbiter: Any) -> None:
    """Warn if an address that is not from the configuration lets everyone in."""
    if _State.has_opened_socket or config().users:
        return
    for listener in arbiter.LISTENERS:
        address = listener.getsockname()
        if isinstance(address, tuple) and not ipaddress.ip_address(address[0]).is_loopback:
            arbiter.log.warning("Listening on %s:%s with no users in the configuration", *address[:2])


def on_reload(arbiter: Any) -> None:
    """Log the warnings of the new configuration, and whether it needs a restart."""
    _forget_settings()
    configure_logging(config().log_format)
    _warn(arbiter)
    if _listen_fields(current.initial_config()) != _listen_fields(config()):
        arbiter.log.warning("The listen fields have changed; restart gunicorn to apply them")


def decides_address(arbiter: Any) -> bool:
    """Return whether the address is the configuration's.

    It is not if a flag or ``GUNICORN_CMD_ARGS`` sets another, if systemd or the predecessor at USR2 passes its
    sockets on, or if each worker opens its own (``--reuse-port``).
    """
    return (
        arbiter.cfg.settings["bind"].get() == [bind()]
        and not arbiter.cfg.reuse_port
        and not arbiter.master_pid
        and os.environ.get("LISTEN_PID") != str(os.getpid())
    )


def _forget_settings() -> None:
    """Have the settings executed again at the next HUP: gunicorn executes a file, but only imports a module."""
    sys.modules.pop(_SETTINGS_MODULE, None)


def _warn(arbiter: Any) -> None:
    if _State.missing_internals:
        arbiter.log.warning(
            "Unsupported gunicorn (missing %s); falling back to gthread, one thread per stream",
            ", ".join(_State.missing_internals),
        )
    for warning in config().warnings:
        arbiter.log.warning("%s", warning)


def _listen_fields(loaded: Config) -> tuple[Any, ...]:
    return (
        loaded.listen,
        loaded.listen_port,
        loaded.bind_interface,
        loaded.routing_mark,
        loaded.reuse_addr,
        loaded.netns,
        loaded.tcp_fast_open,
        loaded.tcp_multi_path,
        loaded.disable_tcp_keep_alive,
        loaded.tcp_keep_alive,
        loaded.tcp_keep_alive_interval,
    )


def block_signals_during_fork() -> None:
    """Don't lose termination signals delivered to a worker during fork.

    In the child, Python discards the signals that arrived before ``PyOS_AfterFork_Child``. Blocked until then, they
    reach the handlers that the child inherits from its parent.
    """
    unblock = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _TERMINATION_SIGNALS)
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _TERMINATION_SIGNALS),
        after_in_parent=unblock,
        after_in_child=unblock,
    )


def post_fork(arbiter: Any, _worker: Any) -> None:
    """Make a new worker terminable from the start, and make sure that the folder for its metrics exists.

    Until a worker sets up its own handlers it has the master's, which only put signals into a queue that nothing in
    this process reads: a TERM would be lost, and the master would wait for the whole grace period before killing it.
    """
    for number in _TERMINATION_SIGNALS:
        signal.signal(number, _exit_immediately)
    while not arbiter.SIG_QUEUE.empty():
        if arbiter.SIG_QUEUE.get_nowait() in _TERMINATION_SIGNALS:
            _exit_immediately()
    instance.release()
    multiprocess.ensure()


def _exit_immediately(*_: object) -> None:
    """Exit a worker that has not begun to serve; gunicorn treats exit code 0 as an orderly exit."""
    os._exit(0)


def post_worker_init(worker: Any) -> None:
    """Recover immediately what a dead worker left behind. If our application is wrapped, this happens later."""
    service = getattr(worker.wsgi, "extensions", {}).get("ocm")
    if service is not None:
        service.start()


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Drop a dead worker's requests in progress from the metrics. Its counters remain."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no types


def on_exit(arbiter: Any) -> None:
    """Remove the metrics' files, and wait for a refresh in progress.

    Not after USR2: the new master is a child as well, and whatever supervises both continues.
    """
    multiprocess.remove()
    if not arbiter.reexec_pid:
        orphans.wait()


def pre_request(_worker: Any, request: Any) -> None:
    """Remember the fields of the request that this thread is about to serve, as the client sent them."""
    remember_fields(request.headers)
