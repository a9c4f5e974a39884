"""Start gunicorn, ``flask ocm`` and ``ocm`` by forking a process that has imported their libraries already.

Most of what it costs to start the service, or a command, is the import of Flask, SQLAlchemy, pydantic and of our own
packages. A fork server imports them once for each process that runs tests and each of the three programs; its children
become exactly what ``python -m gunicorn``, ``flask`` or ``ocm_wsgi`` would be: their own arguments, environment,
folder, session and descriptors, and Python's own way out at the end.

Nothing of ours reads its environment when it is imported. ``prometheus_client`` does: where a folder for shared metrics
is named, it counts in files, and each process that has been forked opens its own in the folder named by then. So the
metrics are imported beforehand for gunicorn only, whose processes always share them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import coverage

#: What makes ``coverage`` measure another process, if this one is measured.
COVERAGE_VARIABLES = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}

REPOSITORY = Path(__file__).resolve().parent.parent

_REQUEST_BYTES = 1 << 16
# Where its end is reported, the standard streams, and a listener.
_MOST_DESCRIPTORS = 5
_LIBRARIES = (
    "certifi",
    "filelock",
    "flask",
    "genai_prices.data",
    "gunicorn.app.wsgiapp",
    "gunicorn.glogging",
    "gunicorn.workers.gthread",
    "json5",
    "pydantic",
    "requests",
    "sqlalchemy.dialects.sqlite",
    "zstandard",
)
_SERVER = ("ocm_wsgi.app", "ocm_wsgi.server.compatibility", "ocm_wsgi.server.hooks", "ocm_wsgi.server.worker")
_PACKAGES = {
    "gunicorn": _SERVER,
    "ocm_wsgi": (*_SERVER, "ocm_wsgi.program", "ocm_wsgi.server.application", "ocm_wsgi.server.command"),
    "flask": (
        "ocm_wsgi.cli.check",
        "ocm_wsgi.cli.client",
        "ocm_wsgi.cli.login",
        "ocm_wsgi.cli.status",
        "ocm_wsgi.cli.usage",
        "ocm_wsgi.cli.users",
    ),
}


class ForkedProcess:
    """A child of the fork server, with the methods of :class:`subprocess.Popen` that tests use."""

    def __init__(self, pid: int, exit_status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._exit_status = exit_status

    def poll(self) -> int | None:
        """Return the exit status, or ``None`` while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process.

        :param timeout: in seconds.
        :raises subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._exit_status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self.returncode = int(self._exit_status.recv(_REQUEST_BYTES))
            self._exit_status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send ``SIGTERM``."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send ``SIGKILL``."""
        self.send_signal(signal.SIGKILL)


def start_gunicorn(
    arguments: list[str], *, environment: Mapping[str, str], listener: socket.socket, log: int
) -> ForkedProcess:
    """Start gunicorn in the repository, in a session of its own.

    :param arguments: as after ``gunicorn`` on a command line; ``{listener}`` in one is the listener's descriptor.
    :param log: descriptor for what it prints.
    """
    with open(os.devnull) as nothing:
        return _start("gunicorn", arguments, environment, REPOSITORY, [nothing.fileno(), log, log, listener.fileno()])


def run_flask_ocm(
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path = REPOSITORY,
    typed: str = "",
    wrapper: tuple[str, ...] = (),
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``flask ocm ARGUMENT...`` to its end, without a terminal.

    :param typed: its standard input.
    :param wrapper: a command that runs the fork server, as ``setpriv`` would run this command.
    :param timeout: in seconds; an error if it takes longer.
    """
    return _run("flask", ["ocm", *arguments], environment, folder, typed, wrapper, timeout)


def run_ocm(
    *arguments: str, environment: Mapping[str, str], folder: Path, wrapper: tuple[str, ...] = (), timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run ``ocm ARGUMENT...`` to its end, as :func:`run_flask_ocm` does."""
    return _run("ocm_wsgi", list(arguments), environment, folder, "", wrapper, timeout)


def _run(
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    folder: Path,
    typed: str,
    wrapper: tuple[str, ...],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    with ExitStack() as opened:
        streams = [opened.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        streams[0].write(typed)
        streams[0].seek(0)
        descriptors = [stream.fileno() for stream in streams]
        process = _start(module, arguments, environment, folder, descriptors, wrapper)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        for stream in streams:
            stream.seek(0)
        _, stdout, stderr = (stream.read() for stream in streams)
    return subprocess.CompletedProcess(arguments, status, stdout, stderr)


def _start(
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    folder: Path,
    descriptors: list[int],
    wrapper: tuple[str, ...] = (),
) -> ForkedProcess:
    """Start ``python -m MODULE ARGUMENT...``.

    :param descriptors: its standard streams, and those that it inherits beside them.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        request = json.dumps(
            {
                "module": module,
                "arguments": arguments,
                "environment": {**COVERAGE_VARIABLES, **environment},
                "folder": str(folder),
            }
        ).encode()
        socket.send_fds(_fork_server(module, wrapper), [request], [theirs.fileno(), *descriptors])
    return ForkedProcess(int(ours.recv(_REQUEST_BYTES)), ours)


@functools.cache
def _fork_server(module: str, wrapper: tuple[str, ...]) -> socket.socket:
    """Start the fork server of this process for a program. It ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # What is imported beforehand is not measured.
    imports = _LIBRARIES if COVERAGE_VARIABLES else (*_LIBRARIES, *_PACKAGES[module])
    with theirs:
        server = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "tests.forkserver", str(theirs.fileno()), *imports],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"]},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop() -> None:
        ours.close()
        server.wait()

    atexit.register(stop)
    return ours


def _serve(channel: socket.socket) -> Callable[..., None] | None:
    """Fork a child for each request. Returns in the child, with what it is to do, and at the end in the server."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not channel:
                    selector.unregister(key.fileobj)
                    _report_exit(*key.data, pidfd=key.fd)
                    continue
                request, descriptors, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, _MOST_DESCRIPTORS)
                if not request:
                    return None
                pid = os.fork()
                if pid == 0:
                    return functools.partial(_become, json.loads(request), descriptors[1:])
                exit_status = socket.socket(fileno=descriptors[0])
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                exit_status.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, exit_status))


def _report_exit(pid: int, exit_status: socket.socket, *, pidfd: int) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with exit_status, contextlib.suppress(OSError):  # the test may have lost interest
        exit_status.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], descriptors: list[int], *, imported: set[int]) -> None:
    """Turn this process into what ``python -m MODULE ARGUMENT...`` would be.

    :param imported: the descriptors that the imported modules have opened, which stay open.
    """
    streams, inherited = descriptors[:3], descriptors[3:]
    for target, source in enumerate(streams):
        os.dup2(source, target)
    for descriptor in _open_descriptors() - {0, 1, 2, *inherited, *imported}:
        os.close(descriptor)
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    module = request["module"]
    arguments = [argument.replace("{listener}", "".join(map(str, inherited))) for argument in request["arguments"]]
    if any(name.startswith(("PYTHON", "LD_")) for name in os.environ):
        # Read when an interpreter starts, so this needs one of its own.
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    sys.path.insert(0, request["folder"])
    coverage.process_startup()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _import(names: list[str]) -> set[int]:
    """Import what the children would import, and return the descriptors that this opens: the files of metrics.

    The children's garbage collectors ignore what has been imported.
    """
    before = _open_descriptors()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        for name in names:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    return _open_descriptors() - before


def _open_descriptors() -> set[int]:
    folder = Path("/proc/self/fd")
    # The one that was open for the listing is closed by now.
    return {int(name) for name in os.listdir(folder) if (folder / name).exists()}


if __name__ == "__main__":
    descriptors_of_imports = _import(sys.argv[2:])
    if child := _serve(socket.socket(fileno=int(sys.argv[1]))):
        child(imported=descriptors_of_imports)
