"""Wrappers around gunicorn's request body, response socket and WSGI app that let us take a response over.

With these, gunicorn itself handles a request until upstream's response is available.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http2.response import HTTP2Response

from ocm_wsgi.gateway.environ import CLIENT_STALL_SECONDS, REQUEST_THREADS, Environ
from ocm_wsgi.relay.handoff import CAN_TUNNEL, OpenedTunnel, RelayedBody

#: Each block of a request's body must arrive within this time.
BLOCK_SECONDS = 30.0
#: A response of our own is buffered up to this size; a larger one, or one of unknown size, occupies a thread.
BUFFERED_BYTES = 1024 * 1024
#: How long an unread request body is drained, so that the connection can serve another request.
DRAIN_SECONDS = 0.01


class HandedOver(BaseException):
    """Leaves gunicorn's handling of a request once we have taken the response over.

    Not an ``Exception``, because gunicorn turns those into a 500.
    """

    def __init__(self, body: RelayedBody | OpenedTunnel, response: Any, environ: Environ) -> None:
        super().__init__()
        self.body = body
        self.response = response
        self.environ = environ


class Outgoing:
    """Replaces the client's socket, so that what gunicorn sends can be sent in one piece, and without waiting.

    :ivar data: what gunicorn has sent.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    def sendall(self, data: bytes) -> None:
        """Buffer a piece; called by gunicorn."""
        self.data += data

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> None:
        """Buffer a part of a file; called by gunicorn."""
        file.seek(offset)
        self.data += file.read(-1 if count is None else count)


class TimedBody:
    """A request's body with a deadline for each read.

    A socket's timeout applies to each ``recv``, of which one read may need many.
    """

    def __init__(self, body: Any, deadlines: dict[Any, float], conn: Any) -> None:
        self._body = body
        self._deadlines = deadlines
        self._conn = conn
        self._until = math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def buffer_response(self, response: Any) -> None:
        """Buffer what gunicorn sends of a response, as ``conn.outgoing``."""
        response.sock = self._conn.outgoing = Outgoing()

    def arrive_within(self, seconds: float) -> None:
        """Require that all reads from now on end within this time, however little each of them takes."""
        self._until = time.monotonic() + seconds

    def read(self, size: int | None = None) -> bytes:
        """Read up to ``size`` bytes within the deadline."""
        self._deadlines[self._conn] = min(time.monotonic() + BLOCK_SECONDS, self._until)
        try:
            return bytes(self._body.read(size))
        finally:
            self._deadlines[self._conn] = math.inf

    def readline(self, size: int | None = None) -> bytes:
        """Read a line within the deadline."""
        self._deadlines[self._conn] = min(time.monotonic() + BLOCK_SECONDS, self._until)
        try:
            return bytes(self._body.readline(size))
        finally:
            self._deadlines[self._conn] = math.inf

    def drain(self) -> bool:
        """Discard what is unread; return whether the connection can serve another request.

        It cannot if that would mean waiting, as a client that was refused may go on sending its body for long; nor if
        the start of the next request cannot be found.
        """
        reader = self._body.reader
        if isinstance(reader, LengthReader) and not reader.length:
            return True  # The usual case, which needs no system call.
        try:
            return bool(self._conn.parser.finish_body(deadline=time.monotonic() + DRAIN_SECONDS))
        except (OSError, ParseException):
            return False


class HandoffMiddleware:
    """Wraps the application, and takes relayed responses over from gunicorn.

    :param threads: the worker's threads for requests.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], *, threads: int) -> None:
        self._application = application
        self._threads = threads

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        response = getattr(start_response, "__self__")  # noqa: B009 - mypy knows no owner
        # HTTP/2 frames responses itself and multiplexes them on one connection. gunicorn also announces it as
        # HTTP_VERSION in the environ, but so does any client that sends a field named Version.
        is_ours = environ[CAN_TUNNEL] = not isinstance(response, HTTP2Response)
        environ[REQUEST_THREADS] = self._threads
        body = self._application(environ, start_response)
        if not is_ours:
            return body
        if not environ["wsgi.input"].drain():
            # The head must announce it, or the client would send its next request into a closing connection.
            response.force_close()
        if not isinstance(body, RelayedBody | OpenedTunnel):
            size = 0 if response._omits_body else response.response_length
            if size is not None and size <= BUFFERED_BYTES:
                environ["wsgi.input"].buffer_response(response)
            else:
                # Bounds each write. A relayed body does so itself, if a thread has to iterate over it.
                response.sock.settimeout(CLIENT_STALL_SECONDS)
            return body
        try:
            is_taken_over = isinstance(body, OpenedTunnel) or body.take_over()
        except BaseException:
            body.close()
            raise
        if is_taken_over:
            raise HandedOver(body, response, environ)
        return body


def is_framed(response: Any) -> bool:
    """Return whether a client can distinguish a cut body from a whole one."""
    return bool(response.chunked) or response.response_length is not None
