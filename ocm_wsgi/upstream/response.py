"""A response of upstream whose head has been read and whose body is still arriving.

Replaces urllib3's response in requests: ``requests.Response.iter_content`` gets its pieces from
:meth:`RawResponse.stream`. The body is neither decoded nor buffered, and its framing is parsed by the same code as in
the worker's event loop.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from urllib3.exceptions import ProtocolError

from ocm_wsgi.gateway.waiting import WaitsForUpstream
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.framing import FramingError, framing_for
from ocm_wsgi.protocol.http.response_head import ResponseHead

#: The maximum number of bytes that are read, sent or held at a time for one stream.
BLOCK_SIZE = 64 * 1024


class RawResponse:
    """One response. The caller must read its body to the end, or close it.

    :param connection: a urllib3 connection.
    :param buffered: bytes received after the head.
    :ivar status: of the final response.
    :ivar socket: non-blocking once :meth:`detach` has succeeded.
    :ivar buffered: bytes of the body that were read with the head.
    :ivar length: of the body in bytes; ``None`` for a chunked body, and for one that ends with the connection.
    :ivar headers: empty, because urllib3 would evaluate ``Retry-After``, which is for the client.
    """

    def __init__(self, connection: Any, head: ResponseHead, buffered: bytes, method: str) -> None:
        """:raises HeadError: the end of the body cannot be determined."""
        self.status = head.status
        self.reason = head.reason
        self.field_lines: Fields = head.fields
        self.version_string = "HTTP/1.1" if head.is_http_1_1 else "HTTP/1.0"
        self.headers: dict[str, str] = {}
        self.is_chunked, self.length = head.framing(method)
        self.length_remaining = self.length  # for a debug line of urllib3
        self.socket: Any = connection.sock
        self.buffered = buffered
        self._is_reusable = head.keeps_alive and (self.is_chunked or self.length is not None)
        # urllib3's pool sets the last two, too. The connection is ours until it is released.
        self._connection = connection
        self._pool: Any = None
        self.retries: Any = None

    def belongs_to(self, pool: Any) -> None:
        """Set the pool that gets the connection back."""
        self._pool = pool

    def stream(self, amount: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield the body as soon as any of it arrives: at most :data:`BLOCK_SIZE` bytes at a time, never decoded.

        ``decode_content``, with which requests asks for decoding, is ignored: the fields describe the encoded body.

        :raises ProtocolError: the body is incomplete, or its framing is invalid.
        """
        framing = framing_for(is_chunked=self.is_chunked, length=self.length)
        data, self.buffered = self.buffered, b""
        try:
            while True:
                if data and (piece := framing.feed(data)):
                    yield piece
                if framing.has_ended:
                    break
                with WaitsForUpstream():
                    data = self.socket.recv(BLOCK_SIZE)
                if not data and not framing.close():
                    raise ProtocolError("the response is incomplete")
        except FramingError as exc:
            if exc.decoded:
                yield exc.decoded
            raise ProtocolError(f"the body's framing is invalid: {exc}") from exc
        finally:
            if framing.has_ended and not framing.has_excess:
                self.give_back()
            else:
                self.close()

    def peek(self, most_bytes: int, seconds: float, is_enough: Callable[[bytes], bool] | None = None) -> bytes:
        """Return the first bytes of the body, as far as they arrive in time. They remain to be read.

        :param is_enough: returns whether no more has to arrive, given what has.
        """
        deadline, timeout, body = time.monotonic() + seconds, self.socket.gettimeout(), b""
        try:
            while True:
                framing = framing_for(is_chunked=self.is_chunked, length=self.length)
                body = framing.feed(self.buffered)
                remaining = deadline - time.monotonic()
                if framing.has_ended or len(body) >= most_bytes or remaining <= 0:
                    return body[:most_bytes]
                if is_enough is not None and is_enough(body):
                    return body[:most_bytes]
                self.socket.settimeout(remaining)
                with WaitsForUpstream():
                    data = self.socket.recv(BLOCK_SIZE)
                if not data:
                    return body
                self.buffered += data
        except FramingError as exc:
            return exc.decoded
        except OSError:
            return body
        finally:
            self.socket.settimeout(timeout)

    def give_back(self) -> None:
        """Release the connection after the body was read to its end, for another request if possible."""
        if not self._is_reusable or self.buffered:
            self.close()
        else:
            self._release()

    def close(self) -> None:
        """Abort the request at upstream; no effect after its end."""
        if self._connection is not None:
            self._connection.close()
            self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._put_conn(connection)

    def detach(self) -> bool:
        """Prepare for an event loop to read the body, in place of :meth:`stream`. Nothing may have been read yet.

        Clears the fields; read them first.

        :return: whether the connection has a socket that can be polled; not so for TLS within TLS.
        """
        if self._connection is None or not isinstance(self.socket, socket.socket):
            return False
        self.socket.setblocking(False)
        self.field_lines = []  # The body may stay open for a long time.
        return True
