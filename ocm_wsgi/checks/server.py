"""gunicorn's settings, as they would be loaded in this folder, and whether the service is running."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.checks.listening import is_listening
from ocm_wsgi.config import Config
from ocm_wsgi.telemetry import multiprocess

_SUBJECT = Subject("server")
# What `gunicorn` loads by itself, and what `ocm serve` does.
_FILE = "gunicorn.conf.py"
_MODULE = "python:ocm_wsgi.gunicorn_conf"
_SUPPORTED_WORKER_CLASSES = ("gthread", "ocm_wsgi.")
_SHORTEST_GRACE_SECONDS = 60
# nginx closes idle connections to the service after this time.
_NGINX_IDLE_SECONDS = 60
# One socket to the client and one to upstream.
_SOCKETS_PER_STREAM = 2


class _Settings(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's settings from its file and GUNICORN_CMD_ARGS, ignoring this program's own arguments."""

    def load_config(self) -> None:
        parser = self.cfg.parser()
        given = parser.parse_args(self.cfg.get_cmd_args_from_env())
        self.load_config_from_file(given.config or (f"./{_FILE}" if os.path.exists(_FILE) else _MODULE))
        for name, value in vars(given).items():
            if value is not None and name != "args":
                self.cfg.set(name.lower(), value)

    @classmethod
    def read(cls) -> Any:
        """Return gunicorn's configuration.

        Loading the file creates a folder for metrics. A folder named by the environment belongs to a running service
        and would be emptied, so the variable is hidden meanwhile.
        """
        named = os.environ.pop(multiprocess.VARIABLE, None)
        try:
            return cls().cfg
        finally:
            multiprocess.remove()
            os.environ.pop(multiprocess.VARIABLE, None)
            if named is not None:
                os.environ[multiprocess.VARIABLE] = named


def findings(config: Config) -> Iterator[Finding]:
    """Check the settings that apply in the working directory: those of its gunicorn.conf.py, or of this package."""
    yield from _settings()
    yield _listening(config)


def _settings() -> Iterator[Finding]:
    try:
        settings = _Settings.read()
    except (SystemExit, RuntimeError):
        yield _SUBJECT.problem("settings", f"{_FILE} or GUNICORN_CMD_ARGS is invalid.", "ocm serve --check-config")
        return
    worker_class = settings.worker_class_str
    if worker_class.startswith(_SUPPORTED_WORKER_CLASSES):
        text = f"{settings.workers} workers of {settings.threads} threads each ({worker_class})."
        yield _SUBJECT.ok("worker_class", text)
    else:
        yield _SUBJECT.warning(
            "worker_class",
            f"This service is not tested with workers of class {worker_class}.",
            f"Let {_FILE} set the worker class.",
        )
    yield from _bounds(settings)
    yield from _timeouts(settings)


def _bounds(settings: Any) -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.worker_connections * _SOCKETS_PER_STREAM
    if soft != resource.RLIM_INFINITY and needed > soft:
        yield _SUBJECT.note(
            "open_files",
            f"Processes started here may open {soft} files; a worker with all its worker_connections needs {needed}.",
            "Run ulimit -n 65536 before ocm serve; ocm.service sets this.",
        )
    cpus = os.cpu_count() or 1
    if settings.workers > 4 * cpus:
        text = f"{settings.workers} workers share {cpus} CPU{'' if cpus == 1 else 's'}."
        yield _SUBJECT.note("workers", text, "Set WEB_CONCURRENCY; one worker per CPU is a good start.")


def _timeouts(settings: Any) -> Iterator[Finding]:
    """Check the settings that end requests and connections early."""
    if settings.max_requests:
        yield _SUBJECT.warning(
            "max_requests",
            "With max_requests, a worker that restarts accepts no requests until its streams have ended.",
            "Set it to 0.",
        )
    if settings.graceful_timeout < _SHORTEST_GRACE_SECONDS:
        text = f"A restart cuts off turns after {settings.graceful_timeout} s."
        yield _SUBJECT.warning("graceful_timeout", text, "Set graceful_timeout to 120 or more.")
    if settings.keepalive <= _NGINX_IDLE_SECONDS:
        text = f"keepalive is {settings.keepalive} s, no longer than nginx's {_NGINX_IDLE_SECONDS} s."
        yield _SUBJECT.warning("keepalive", text, "Set keepalive to 75 or more.")


def _listening(config: Config) -> Finding:
    address = f"{config.listen}:{config.listen_port}"
    if is_listening(config):
        return _SUBJECT.ok("listening", f"A server is listening at {address}.")
    return _SUBJECT.note("stopped", f"Nothing is listening at {address}: the service is not running.", "Start it.")
