"""A stand-in for the service behind nginx, for tests of nginx alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(ThreadingHTTPServer):
    """A stand-in for the service that records requests as nginx sent them."""

    daemon_threads = False  # no thread may outlive its test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.request_lines: list[str] = []
        self.fields: list[tuple[str, str]] = []
        self.response_fields: dict[str, str] = {}

    def clear(self) -> None:
        """Forget all requests, and respond as at the start."""
        self.request_lines.clear()
        self.fields.clear()
        self.response_fields.clear()

    def values(self, *names: str) -> dict[str, str]:
        """Return the named request fields that arrived."""
        wanted = {name.lower() for name in names}
        return {name.lower(): value for name, value in self.fields if name.lower() in wanted}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_GET(self) -> None:
        self.server.request_lines.append(self.requestline)
        self.server.fields.extend(self.headers.items())
        self.send_response(200)
        for name, value in self.server.response_fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def run_backend() -> Iterator[Backend]:
    """Run a stand-in until the end of the context."""
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
