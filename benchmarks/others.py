"""Other programs with a part of the service's functions, measured if they are installed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks import wire
from benchmarks.load import Target
from benchmarks.processes import ProcessTree
from benchmarks.servers import BEARER_TOKEN, Server, ServerFailed, Upstream, open_listener, run_program

# One of them takes 10 s to import, and much longer on a busy machine.
_START_TIMEOUT_SECONDS = 90.0
_START_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Kind:
    """A program that may be installed.

    :ivar name: the name of its command and its distribution, and in tables.
    :ivar arguments: its arguments, without those for the listening address.
    :ivar prepare: writes its configuration into its working folder and returns its environment.
    :ivar started: the log message of a worker that is ready.
    """

    name: str
    title: str
    arguments: Sequence[str]
    prepare: Callable[[Upstream, Path], Mapping[str, str]]
    started: str
    workers: int


@dataclass(frozen=True)
class Other:
    """An installed program."""

    kind: Kind
    program: Path

    @property
    def version(self) -> str:
        """The version of the program's distribution."""
        folders = self.program.resolve().parent.parent.glob("lib/python3*/site-packages")
        found = next(iter(metadata.distributions(name=self.kind.name, path=[str(folder) for folder in folders])), None)
        return found.version if found else "(unknown version)"

    @contextlib.contextmanager
    def run(self, behind: Upstream, folder: Path) -> Iterator[Server]:
        """Run it in ``folder``, which must be empty; it is ready when this yields.

        :raises ServerFailed: the program did not start.
        """
        environment, log = self.kind.prepare(behind, folder), folder / "output.log"
        with open_listener() as listener:
            address = listener.getsockname()
        # None of them can inherit an open socket, so its port is freed, and unlikely to be taken by others.
        command = [str(self.program.absolute()), *self.kind.arguments, "--host", address[0], "--port", str(address[1])]
        with run_program(command, log=log, environment={"PYTHONUNBUFFERED": "1", **environment}, cwd=folder) as tree:
            target = Target(address, wire.CLIENT_PATH, BEARER_TOKEN, rewrites=True)
            server = Server(self.kind.name, target, tree, log)
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
