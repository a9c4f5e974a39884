"""gunicorn's settings, as ``gunicorn wsgi:app`` would have them in this folder, and whether the service answers."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.telemetry import multiprocess

_SUBJECT = Subject("server")
_FILE = "gunicorn.conf.py"
_FITTING = ("gthread", "ocm_wsgi.")
_SHORTEST_GRACE_SECONDS = 60
# nginx keeps an idle connection to the service for so long.
_NGINX_IDLE_SECONDS = 60
# A stream takes the client's socket and upstream's.
_SOCKETS_A_STREAM = 2
_CONNECT_SECONDS = 2.0


class _Settings(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own reading of its file and of GUNICORN_CMD_ARGS, without this program's arguments."""

    def load_config(self) -> None:
        parser = self.cfg.parser()
        given = parser.parse_args(self.cfg.get_cmd_args_from_env())
        self.load_config_from_file(given.config or f"./{_FILE}")
        for name, value in vars(given).items():
            if value is not None and name != "args":
                self.cfg.set(name.lower(), value)

    @classmethod
    def read(cls) -> Any:
        """Return gunicorn's configuration.

        The file makes a folder for metrics; if one is named, it is a running service's, and would be emptied.
        """
        named = os.environ.pop(multiprocess.VARIABLE, None)
        try:
            return cls().cfg
        finally:
            multiprocess.remove()
            os.environ.pop(multiprocess.VARIABLE, None)
            if named is not None:
                os.environ[multiprocess.VARIABLE] = named


def findings(config: Config, folder: Path) -> Iterator[Finding]:
    """Look at the settings.

    :param folder: where gunicorn is started.
    """
    if (folder / _FILE).is_file():
        yield from _settings()
    else:
        yield _SUBJECT.warning(
            "no_settings",
            f"There is no {_FILE} in {folder}. Started here, gunicorn would serve one request at a time, elsewhere.",
            "Start it in the folder of wsgi.py, or give it --config; run this check there too.",
        )
    yield _answers(config)


def _settings() -> Iterator[Finding]:
    try:
        settings = _Settings.read()
    except (SystemExit, RuntimeError):
        yield _SUBJECT.problem(
            "settings", f"{_FILE} or GUNICORN_CMD_ARGS cannot be read.", "gunicorn --check-config wsgi:app"
        )
        return
    worker_class = settings.worker_class_str
    if worker_class.startswith(_FITTING):
        text = f"{settings.workers} workers of {settings.threads} threads each ({worker_class})."
        yield _SUBJECT.ok("worker_class", text)
    else:
        yield _SUBJECT.warning(
            "worker_class",
            f"Workers of class {worker_class} are not those that this service is made for and tested with.",
            f"Leave the worker class to {_FILE}.",
        )
    yield from _bounds(settings)
    yield from _endings(settings)


def _bounds(settings: Any) -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.worker_connections * _SOCKETS_A_STREAM
    if soft != resource.RLIM_INFINITY and needed > soft:
        yield _SUBJECT.note(
            "open_files",
            f"Here a process may open {soft} files; a worker with all the clients it may have needs {needed}.",
            "ulimit -n 65536 before gunicorn; ocm.service has that.",
        )
    cpus = os.cpu_count() or 1
    if settings.workers > 4 * cpus:
        text = f"{settings.workers} workers share {cpus} CPUs."
        yield _SUBJECT.note("workers", text, "As many as CPUs is a good start: WEB_CONCURRENCY.")


def _endings(settings: Any) -> Iterator[Finding]:
    """Look at what ends requests and connections before their time."""
    if settings.max_requests:
        yield _SUBJECT.warning(
            "max_requests",
            "With max_requests a worker stops taking requests until its streams have ended.",
            "Leave it 0.",
        )
    if settings.graceful_timeout < _SHORTEST_GRACE_SECONDS:
        text = f"A restart cuts turns after {settings.graceful_timeout} s."
        yield _SUBJECT.warning("graceful_timeout", text, "120 or more.")
    if settings.keepalive <= _NGINX_IDLE_SECONDS:
        text = f"keepalive is {settings.keepalive} s, no longer than nginx's."
        yield _SUBJECT.warning("keepalive", text, "75 or more.")


def _answers(config: Config) -> Finding:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(config.listen), str(config.listen))  # noqa: S104  # not bound
    try:
        socket.create_connection((host, config.listen_port), _CONNECT_SECONDS).close()
    except OSError:
        return _SUBJECT.note(
            "stopped",
            f"Nobody listens at {config.listen}:{config.listen_port}: the service is not running.",
            "Start it.",
        )
    return _SUBJECT.ok("listening", f"Somebody listens at {config.listen}:{config.listen_port}.")
