"""Other programs with a part of the service's functions, measured if they are installed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from benchmarks import wire
from benchmarks.processes import ProcessTree
from benchmarks.servers import BEARER_TOKEN, Server, ServerFailed, Upstream, open_listener, run_program
from benchmarks.target import Target

# One of them takes 10 s to import, and much longer on a busy machine.
_START_TIMEOUT_SECONDS = 90.0
_START_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Prepared:
    """How to start a program.

    :ivar arguments: of its command.
    :ivar environment: variables in addition to PATH and HOME.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def distribution_version(name: str, program: Path) -> str:
    """Return the version of the Python distribution that a command belongs to."""
    folders = program.resolve().parent.parent.glob("lib/python3*/site-packages")
    found = next(iter(metadata.distributions(name=name, path=[str(folder) for folder in folders])), None)
    return found.version if found else "(unknown version)"


@dataclass(frozen=True)
class Kind:
    """A program that may be installed.

    :ivar name: the name of its command, and in tables.
    :ivar prepare: writes its configuration into its working folder, for the address to listen on.
    :ivar started: the log message of a worker that is ready.
    :ivar version: returns the version of a command of this name.
    :ivar rewrites: whether it rewrites responses over HTTP.
    :ivar has_sockets: whether it is measured with WebSockets, too.
    """

    name: str
    title: str
    prepare: Callable[[Upstream, Path, tuple[str, int]], Prepared]
    started: str
    workers: int
    version: Callable[[str, Path], str] = distribution_version
    rewrites: bool = True
    has_sockets: bool = False


@dataclass(frozen=True)
class Other:
    """An installed program."""

    kind: Kind
    program: Path

    @property
    def version(self) -> str:
        """The program's version."""
        return self.kind.version(self.kind.name, self.program)

    @contextlib.contextmanager
    def run(self, behind: Upstream, folder: Path) -> Iterator[Server]:
        """Run it in ``folder``, which must be empty; it is ready when this yields.

        :raises ServerFailed: the program did not start.
        """
        log = folder / "output.log"
        with open_listener() as listener:
            address = listener.getsockname()
        # None of them can inherit an open socket, so its port is freed, and unlikely to be taken by others.
        prepared = self.kind.prepare(behind, folder, address)
        command = [str(self.program.absolute()), *prepared.arguments]
        environment = {"PYTHONUNBUFFERED": "1", **prepared.environment}
        with run_program(command, log=log, environment=environment, cwd=folder) as tree:
            kind = self.kind
            target = Target(
                address, wire.CLIENT_PATH, BEARER_TOKEN, rewrites=kind.rewrites, ends_sockets=kind.has_sockets
            )
            server = Server(kind.name, target, tree, log)
            self._await_workers(server, tree)
            yield server

    def _await_workers(self, server: Server, tree: ProcessTree) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while server.log_text(full=True).count(self.kind.started) < self.kind.workers:
            if tree.has_ended():
                raise ServerFailed(f"{server.name} exited at startup\n{server.log_text()}".strip())
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{server.name} has not started within {_START_TIMEOUT_SECONDS:.0f} s\n{server.log_text()}"
                )
            time.sleep(_START_POLL_SECONDS)


def installed(kind: Kind) -> Path | None:
    """Return its command, or ``None`` if it is not on PATH."""
    found = shutil.which(kind.name)
    return Path(found) if found else None


def host_and_port(address: tuple[str, int]) -> Sequence[str]:
    """Return the arguments with which both Python programs are given an address."""
    return ("--host", address[0], "--port", str(address[1]))
