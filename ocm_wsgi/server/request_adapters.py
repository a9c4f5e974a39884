"""What gunicorn is given in place of a request's body, a response's connection and the application.

With these the handling of a request stays gunicorn's own up to the moment when upstream's response is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException

from ocm_wsgi.relay.handoff import CAN_TUNNEL, OpenedTunnel, RelayedBody
from ocm_wsgi.wsgi.environ import Environ

#: What a request's body is read in must arrive within this time, block by block.
BLOCK_SECONDS = 30.0
#: Body that nobody read is read away for so long, if the connection is to serve another request.
DRAIN_SECONDS = 0.01


class HandedOver(BaseException):
    """Leaves gunicorn's handling of a request at the moment when the response is ours.

    No ``Exception``, for gunicorn answers those with a 500.
    """

    def __init__(self, body: RelayedBody | OpenedTunnel, response: Any, environ: Environ) -> None:
        super().__init__()
        self.body = body
        self.response = response
        self.environ = environ


class Head:
    """What a response takes for its client's connection, so that its head can go out with the first of its body."""

    def __init__(self) -> None:
        self.sent_bytes = b""

    def sendall(self, data: bytes) -> None:
        """Called by gunicorn."""
        self.sent_bytes += data


class TimedBody:
    """A request's body, of which each read has a deadline.

    A socket's own timeout is for each of the many ``recv`` that one read may take.
    """

    def __init__(self, body: Any, deadlines: dict[Any, float], conn: Any) -> None:
        self._body = body
        self._deadlines = deadlines
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read(self, size: int | None = None) -> bytes:
        """As any body's."""
        self._deadlines[self._conn] = time.monotonic() + BLOCK_SECONDS
        try:
            return bytes(self._body.read(size))
        finally:
            self._deadlines[self._conn] = math.inf

    def readline(self, size: int | None = None) -> bytes:
        """As any body's."""
        self._deadlines[self._conn] = time.monotonic() + BLOCK_SECONDS
        try:
            return bytes(self._body.readline(size))
        finally:
            self._deadlines[self._conn] = math.inf

    def drain(self) -> bool:
        """Read away what nobody read; return whether the connection can serve another request.

        Not when that would mean to wait: a client that is refused may send its body for long. Nor when it cannot be
        told where the next request begins.
        """
        reader = self._body.reader
        if isinstance(reader, LengthReader) and not reader.length:
            return True  # As almost always, and without a system call.
        try:
            return bool(self._conn.parser.finish_body(deadline=time.monotonic() + DRAIN_SECONDS))
        except (OSError, ParseException):
            return False


class HandoffMiddleware:
    """The application, with relayed bodies taken out of gunicorn's hands."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        # HTTP/2 frames a response itself, many of them on one connection.
        is_ours = environ[CAN_TUNNEL] = environ.get("HTTP_VERSION") != "2"
        body = self._application(environ, start_response)
        if not is_ours:
            return body
        response = getattr(start_response, "__self__")  # noqa: B009 - mypy knows no owner
        if not environ["wsgi.input"].drain():
            # Said in the head, or the client would send its next request into a connection that closes.
            response.force_close()
        if not isinstance(body, RelayedBody | OpenedTunnel):
            return body
        try:
            is_taken_over = isinstance(body, OpenedTunnel) or body.take_over()
        except BaseException:
            body.close()
            raise
        if is_taken_over:
            raise HandedOver(body, response, environ)
        return body
