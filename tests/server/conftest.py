"""Fixtures that run the real gunicorn with the repository's gunicorn.conf.py and a small WSGI application."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Not "-m gunicorn": at USR2 gunicorn would run its __main__.py as a script, whose folder holds another "http".
SCRIPT = str(Path(sys.executable).with_name("gunicorn"))
APPLICATION = """
import json, os, socket
from ocm_wsgi.config import current
from ocm_wsgi.gateway.environ import request_fields

def app(environ, start_response):
    connection = environ["gunicorn.socket"]
    body = json.dumps({
        "fields": request_fields(),
        "path": environ["PATH_INFO"],
        "scheme": environ["wsgi.url_scheme"],
        "worker": os.getpid(),
        "reserve": current.config().reserve_5h,
        "keep_alive": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        "mark": connection.getsockopt(socket.SOL_SOCKET, 36),
    }).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
# Passes a socket like systemd does for a socket unit, see sd_listen_fds(3).
SYSTEMD = """
import os, sys
os.dup2({fd}, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[1], sys.argv[1:])
"""


class Gunicorn:
    """A gunicorn process in its own folder, with its log in a file."""

    def __init__(self, folder: Path, *arguments: str, listening_fd: int | None = None, **env: str):
        self.log_path = folder / f"log-{time.monotonic_ns()}"
        command = [SCRIPT, "-c", str(ROOT / "gunicorn.conf.py"), *arguments, "served_app:app"]
        if listening_fd is not None:
            command = [sys.executable, "-c", SYSTEMD.format(fd=listening_fd), *command]
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": f"{ROOT}:{folder}"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environ, "OCM_LISTEN_PORT": "0", "WEB_CONCURRENCY": "1", **env},
                stdout=log,
                stderr=log,
                pass_fds=() if listening_fd is None else (listening_fd,),
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], *, seconds: float = 20) -> None:
        """Poll until a condition holds, as the process offers nothing to wait on."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def wait_for_log(self, pattern: str, *, count: int = 1) -> list[str]:
        self.wait_for(lambda: len(re.findall(pattern, self.log)) >= count)
        return re.findall(pattern, self.log)

    def address(self) -> tuple[str, int]:
        """Return the address that it listens on, according to its log."""
        pattern = r"Listening at: https?://\[?([0-9a-f.:]+?)\]?:(\d+) "
        self.wait_for_log(pattern)
        found = re.search(pattern, self.log)
        assert found
        host, port = found.groups()
        self.wait_for_log("Booting worker")
        return host, int(port)

    def reload(self) -> None:
        """Reload the configuration, and wait until new workers have replaced the old ones."""
        booted = self.log.count("Booting worker")
        self.process.send_signal(signal.SIGHUP)
        self.wait_for_log("Booting worker", count=booted + 1)
        self.wait_for_log("Worker exiting", count=booted)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Return a function that starts gunicorn; all its processes are stopped after the test."""
    (tmp_path / "served_app.py").write_text(APPLICATION)
    started: list[Gunicorn] = []

    def start(*arguments: str, **options: object) -> Gunicorn:
        started.append(Gunicorn(tmp_path, *arguments, **options))  # type: ignore[arg-type]  # passed through
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def held_port() -> Iterator[tuple[socket.socket, int]]:
    """Return a socket that listens on a loopback port, and the port."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder, holder.getsockname()[1]
