"""The measured servers: upstream itself and servers in front of it, each started for one run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import upstream, wire
from benchmarks.certificates import ADDRESS, Certificate
from benchmarks.processes import ProcessTree, end, start
from benchmarks.target import Target

PROJECT = Path(__file__).resolve().parent.parent
#: The name of requests without a server in between.
DIRECT = "direct"
#: The workers of nginx and of the service, as in gunicorn.conf.py.
WORKERS = 2
#: The token for nginx and direct requests, which ignore it.
BEARER_TOKEN = "sk-ocm-benchmark"
_PROCESSES = multiprocessing.get_context("spawn")
_BACKLOG = 4096
_STOP_TIMEOUT_SECONDS = 10.0
_LOG_CHARACTERS = 2000


class ServerFailed(Exception):
    """A server cannot be measured. The message has the reason and its log."""


@dataclass(frozen=True)
class Tunnels:
    """The address at which upstream acts as a proxy to itself."""

    address: tuple[str, int]
    certificate: Certificate


@dataclass(frozen=True)
class Upstream:
    """The running upstream.

    :ivar certificate: it speaks TLS with it.
    :ivar tunnels: where it also uses TLS, after a CONNECT.
    """

    address: tuple[str, int]
    tree: ProcessTree
    processes: int
    certificate: Certificate | None
    tunnels: Tunnels | None = None

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


@dataclass(frozen=True)
class Server:
    """A running server.

    :ivar tree: its processes, or ``None`` if there are none between client and upstream.
    :ivar log: its log file.
    """

    name: str
    target: Target
    tree: ProcessTree | None = None
    log: Path | None = None

    def log_text(self, *, full: bool = False) -> str:
        """Return the end of its log, or nothing."""
        text = self.log.read_text(errors="replace") if self.log else ""
        return (text if full else text[-_LOG_CHARACTERS:]).strip()


@contextlib.contextmanager
def open_listener() -> Iterator[socket.socket]:
    """Open a server's socket before it starts, so that its port cannot be taken and no client connects too early."""
    with socket.create_server((ADDRESS, 0), backlog=_BACKLOG) as listener:
        # nginx uses an inherited socket unchanged. If it were blocking, a worker that lost the race for a connection
        # would block in accept() until the next one.
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def run_upstream(
    *, processes: int, certificate: Certificate | None, tunnels: Certificate | None = None
) -> Iterator[Upstream]:
    """Run upstream in separate processes.

    :param tunnels: offer them, too, with this certificate.
    """
    with contextlib.ExitStack() as running, open_listener() as listener, open_listener() as tunnel_listener:
        endpoints = [upstream.Endpoint(listener, certificate)]
        if tunnels is not None:
            endpoints.append(upstream.Endpoint(tunnel_listener, tunnels, is_tunnel=True))
        pids = []
        for _ in range(processes):
            process = _PROCESSES.Process(target=upstream.serve, args=(endpoints,), daemon=True)
            start(process)
            running.callback(end, process)
            assert process.pid is not None
            pids.append(process.pid)
        address, tunnel_address = listener.getsockname(), tunnel_listener.getsockname()
        listener.close()
        tunnel_listener.close()
        offered = Tunnels(tunnel_address, tunnels) if tunnels else None
        yield Upstream(address, ProcessTree(*pids), processes, certificate, offered)


def direct(behind: Upstream) -> Server:
    """Return upstream itself as a server, for direct requests."""
    authority = behind.certificate.authority if behind.certificate else None
    return Server(DIRECT, Target(behind.address, wire.UPSTREAM_PATH, BEARER_TOKEN, authority=authority))


@contextlib.contextmanager
def run_program(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    listener: socket.socket | None = None,
    cwd: Path = PROJECT,
) -> Iterator[ProcessTree]:
    """Run a server, and stop it with all its workers.

    :param log: the file for its output.
    :param environment: variables in addition to PATH and HOME.
    :param listener: an open socket that the server inherits; closed by this function.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()] if listener else [],
            start_new_session=True,  # Ctrl-C must reach this process only, which then stops the server.
        )
    if listener:
        listener.close()
    try:
        yield ProcessTree(process.pid)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
