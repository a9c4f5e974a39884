"""Waits in the event loop for the bodies of known users, of which a thread has found only a part.

Uploads take as long as a client's network, or as long as the client likes. A thread reads what has arrived with the
request's head, and serves it if that was all. Otherwise it checks who sends the body: a stranger's is not read, and
a user's is collected in the loop, large ones in a temporary file. Then a thread serves the request from the beginning.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import tempfile
from collections.abc import Callable
from typing import IO, Any

from gunicorn.http.body import ChunkedReader, LengthReader

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.http.bearer import bearer_token
from ocm_wsgi.protocol.http.framing import Chunked, FixedLength, FramingError
from ocm_wsgi.protocol.http.targets import API_PREFIX
from ocm_wsgi.relay.decision_queue import STRANGER
from ocm_wsgi.relay.lingering_close import shut_down
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.server.request_adapters import BLOCK_SECONDS
from ocm_wsgi.service import Service

#: The most that a thread reads of a body before its sender is known.
EAGER_BYTES = 1024 * 1024
# A body is read in such blocks, each of which must arrive within BLOCK_SECONDS.
_BLOCK_BYTES = 64 * 1024
# What the loop collects stays in memory up to this size, as many bodies may be awaited at the same time.
_MEMORY_BYTES = 64 * 1024
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BodyAwaited(BaseException):
    """Leaves gunicorn's handling of a request until its body has arrived. The application has not been called yet.

    Not an ``Exception``, because gunicorn turns those into a 500.
    """

    def __init__(self, body: IncompleteBody) -> None:
        super().__init__()
        self.body = body


class IncompleteBody:
    """A request's body of which a part has not been read from the socket.

    :param req: gunicorn's request, whose head has been parsed.
    :ivar limit_bytes: of its content; with its framing it is not collected beyond twice this size.
    :ivar user: who sends it, once that is known.
    """

    limit_bytes: int

    def __init__(self, conn: Any, req: Any) -> None:
        self.conn = conn
        self.req = req
        self.user = STRANGER
        self._unreader = conn.parser.unreader
        reader = req.body.reader
        # Only to find the end: gunicorn decodes the body once more when it is read.
        self._framing = FixedLength(reader.length) if isinstance(reader, LengthReader) else Chunked()
        self._missing: int | None = reader.length if isinstance(reader, LengthReader) else None
        self._size = 0
        self._spool = _Spool()
        self._count(self._unreader.buf.getvalue())

    @property
    def missing_bytes(self) -> int | None:
        """The size of what is missing; ``None`` if the body is chunked, so that this is unknown."""
        return self._missing

    @property
    def size(self) -> int:
        """The size of what has been read, including the framing."""
        return self._size

    def read_eagerly(self) -> bool:
        """Read what has arrived, up to ``EAGER_BYTES``; return whether that completes the body. For a thread."""
        self.conn.sock.setblocking(False)
        pieces = []
        while not self._framing.has_ended and self._size < EAGER_BYTES:
            data = self._receive()
            if not data:
                break
            pieces.append(data)
            self._count(data)
        if pieces:
            self._unreader.unread(b"".join([self._unreader.take_buffered(), *pieces]))
        return self._framing.has_ended

    def take(self) -> bool:
        """Read one block into the spool; return whether nothing more is to be read. For the loop.

        It is not if the body is complete or invalid, the client has disconnected, or there is no room on the disk.
        """
        data = self._receive()
        if data is None:
            return False
        self._count(data)
        # Without room on the disk the application is called, which has a response for that.
        return not self._spool.append(data) or not data or self._framing.has_ended

    def resume(self) -> None:
        """Make gunicorn handle the request from the beginning, with the body that was collected."""
        self._unreader.sock = _Source(self._spool, self._unreader)
        self.conn.parser = _ResumedParser(self.conn, self.req)

    def _receive(self) -> bytes | None:
        """Return a block; ``b""`` at the end of the connection, ``None`` if there is none yet."""
        size = _BLOCK_BYTES if self._missing is None else min(_BLOCK_BYTES, self._missing)
        try:
            return bytes(self.conn.sock.recv(size))
        except _WOULD_BLOCK:
            return None
        except OSError:
            return b""

    def _count(self, data: bytes) -> None:
        self._size += len(data)
        if self._missing is not None:
            self._missing = max(self._missing - len(data), 0)
        try:
            self._framing.feed(data)
        except FramingError:
            # gunicorn refuses it with a reason.
            self._framing.has_ended = True


class _Spool:
    """Bytes in the order in which they were appended: first in memory, and beyond ``_MEMORY_BYTES`` in a file.

    Nothing is lost if the disk is full, unlike with ``SpooledTemporaryFile``.
    """

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._read_bytes = 0

    def append(self, data: bytes) -> bool:
        """Append a block; return whether there is room for another."""
        self._memory += data
        if len(self._memory) <= _MEMORY_BYTES:
            return True
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - close() closes it
            while self._memory:
                del self._memory[: self._file.write(self._memory)]
        except OSError:
            return False
        return True

    def read(self, size: int) -> bytes:
        """Return the next bytes, up to this number; ``b""`` at the end. Nothing may be appended any more."""
        if self._file is not None:
            data = os.pread(self._file.fileno(), size, self._read_bytes)
            self._read_bytes += len(data)
            if data:
                return data
        data = bytes(self._memory[:size])
        del self._memory[:size]
        return data

    def close(self) -> None:
        """Free the memory and the file."""
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


class _Source:
    """Takes the place of the socket from which gunicorn reads, until it has read what was collected."""

    def __init__(self, spool: _Spool, unreader: Any) -> None:
        self._spool = spool
        self._unreader = unreader
        self._socket = unreader.sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, size: int) -> bytes:
        """Return what was collected, and then what the socket has."""
        data = self._spool.read(size)
        if data:
            return data
        self._close()
        return bytes(self._socket.recv(size))

    def leave(self) -> None:
        """Return to gunicorn what it has not read: the next request may have arrived with the end of a chunked body.

        Of a body that was not read there may be more, but then the connection serves no other request.
        """
        self._unreader.unread(self._unreader.take_buffered() + self._spool.read(_BLOCK_BYTES))
        self._close()

    def _close(self) -> None:
        self._unreader.sock = self._socket
        self._spool.close()


class _ResumedParser:
    """Takes the place of a connection's parser, and returns a request that it has already parsed."""

    def __init__(self, conn: Any, req: Any) -> None:
        self._conn = conn
        self._parser = conn.parser
        self._req = req

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def __next__(self) -> Any:
        self._conn.parser = self._parser
        return self._req


def incomplete_body(conn: Any, req: Any) -> IncompleteBody | None:
    """Return a request's body if some of it has not been read, and it has not been waited for yet."""
    reader, unreader = req.body.reader, conn.parser.unreader
    if isinstance(unreader.sock, _Source) or not isinstance(reader, LengthReader | ChunkedReader):
        return None
    if isinstance(reader, LengthReader) and reader.length <= unreader.buf.getbuffer().nbytes:
        return None
    return IncompleteBody(conn, req)


def leave_source(conn: Any) -> None:
    """Make gunicorn read from a connection's socket again, after a request whose body was waited for."""
    source = getattr(getattr(conn.parser, "unreader", None), "sock", None)
    if isinstance(source, _Source):
        source.leave()


def require_body(conn: Any, req: Any, service: Service | None) -> None:
    """Have a request's body waited for, if it has not arrived and the application would read it.

    :param service: knows the users; if it is unknown, the application's thread waits.
    :raises BodyAwaited: the request must be handled from the beginning when the body has arrived.
    """
    _send_continue(conn, req)
    body = incomplete_body(conn, req)
    if body is not None and not body.read_eagerly() and service is not None and _is_awaited(service, body):
        body.limit_bytes = service.config.max_body_bytes
        raise BodyAwaited(body)


def _is_awaited(service: Service, body: IncompleteBody) -> bool:
    """Return whether the application would read a body: its sender is a user, and it is not announced as too large.

    Sets its user.
    """
    req = body.req
    if not req.path.startswith(API_PREFIX) or (body.missing_bytes or 0) > service.config.max_body_bytes:
        return False
    try:
        if not service.users.is_open:
            body.user = service.users.authenticate(bearer_token(req.headers)).name
    except OcmError:
        return False
    return True


def _send_continue(conn: Any, req: Any) -> None:
    """Ask for the body of a client that waits for that (RFC 9110 section 10.1.1), unless that would mean waiting."""
    if req._expected_100_continue:
        req._expected_100_continue = False
        conn.sock.setblocking(False)
        with contextlib.suppress(OSError):
            conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")


class BodyArrivals:
    """The connections on which the rest of a body is expected. For the loop's thread only.

    :param on_arrived: called with a connection whose request can be served, although it may have ended early, and with
        its user.
    """

    def __init__(self, loop: Loop, *, on_arrived: Callable[[Any, str], None]) -> None:
        self._loop = loop
        self._on_arrived = on_arrived
        self._arrivals: set[_Arrival] = set()

    def expect(self, body: IncompleteBody) -> None:
        """Wait for the rest of a body."""

        def on_end() -> None:
            self._arrivals.discard(arrival)
            body.resume()
            self._on_arrived(body.conn, body.user)

        arrival = _Arrival(self._loop, body, on_end=on_end)
        self._arrivals.add(arrival)
        arrival.start()

    def abort_all(self) -> None:
        """Let the requests fail whose bodies have not arrived."""
        for arrival in list(self._arrivals):
            arrival.abort()


class _Arrival:
    """One body that is awaited; ends when it is complete, its client has left, or a block of it takes too long."""

    def __init__(self, loop: Loop, body: IncompleteBody, *, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._body = body
        self._socket: socket.socket = body.conn.sock
        self._fd = self._socket.fileno()
        self._on_end = on_end
        self._has_ended = False
        self._next_block()

    def start(self) -> None:
        self._socket.setblocking(False)
        self._loop.add(self)
        self._loop.watch(self._fd, select.EPOLLIN | select.EPOLLRDHUP, self._on_ready)

    def check(self, now: float) -> None:
        if now >= self._until:
            self.abort()

    def abort(self) -> None:
        """End the connection; the thread that serves the request will find it so, and log it."""
        shut_down(self._socket)
        self._end()

    def _on_ready(self, _mask: int) -> None:
        if self._body.take() or self._body.size > 2 * self._body.limit_bytes:
            self._end()
        elif self._body.size >= self._block_ends:
            self._next_block()

    def _next_block(self) -> None:
        self._until = self._loop.now + BLOCK_SECONDS
        self._block_ends = self._body.size + _BLOCK_BYTES

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._loop.discard(self)
            self._loop.forget(self._fd)
            self._on_end()
