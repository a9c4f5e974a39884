"""A response of upstream whose head is here and whose body is still arriving.

Stands in for urllib3's response in requests: ``requests.Response.iter_content`` takes its pieces from
:meth:`RawResponse.stream`. The body is neither decoded nor waited for, and its framing is read by the same code
as in the worker's loop.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from urllib3.exceptions import ProtocolError

from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.framing import FramingError, framing_for
from ocm_wsgi.protocol.http.response_head import ResponseHead

#: At most this much is read, sent and held at once for one stream, in octets.
BLOCK_SIZE = 64 * 1024


class RawResponse:
    """One response. Whoever holds it reads its body to the end, or closes it.

    :param connection: one of urllib3's.
    :param rest: what came behind the head.
    :ivar status: of the final response.
    :ivar socket: non-blocking once :meth:`detach` has succeeded.
    :ivar buffered: octets of the body that were read with the head.
    :ivar length: of the body in octets; ``None`` for a chunked body, and for one that ends with the connection.
    :ivar headers: empty: urllib3 looks for a ``Retry-After`` there, which is the client's business.
    """

    def __init__(self, connection: Any, head: ResponseHead, rest: bytes, method: str) -> None:
        """:raises HeadError: it cannot be told where the body ends."""
        self.status = head.status
        self.reason = head.reason
        self.field_lines: Fields = head.fields
        self.version_string = "HTTP/1.1" if head.is_http_1_1 else "HTTP/1.0"
        self.headers: dict[str, str] = {}
        self.is_chunked, self.length = head.framing(method)
        self.length_remaining = self.length  # for a debug line of urllib3
        self.socket: Any = connection.sock
        self.buffered = rest
        self._can_stay = head.keeps_alive and (self.is_chunked or self.length is not None)
        # urllib3's pool sets these two; the connection is ours until it is given back.
        self._connection = connection
        self._pool: Any = None
        self.retries: Any = None

    def stream(self, amount: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield what is there, as soon as anything is: at most :data:`BLOCK_SIZE` octets at a time, never decoded.

        ``decode_content`` is requests' wish to decode; fields that describe an encoded body would then lie.

        :raises ProtocolError: the body ended before its end, or makes no sense.
        """
        framing = framing_for(is_chunked=self.is_chunked, length=self.length)
        data, self.buffered = self.buffered, b""
        try:
            while True:
                if data and (piece := framing.feed(data)):
                    yield piece
                if framing.has_ended:
                    break
                data = self.socket.recv(BLOCK_SIZE)
                if not data and not framing.close():
                    raise ProtocolError("the response ended before its end")
        except FramingError as exc:
            if exc.decoded:
                yield exc.decoded
            raise ProtocolError(f"the body's framing is broken: {exc}") from exc
        finally:
            if framing.has_ended and not framing.has_excess:
                self.give_back()
            else:
                self.close()

    def give_back(self) -> None:
        """The body was read to its end: the connection may serve another request."""
        if not self._can_stay or self.buffered:
            self.close()
        else:
            self._release()

    def close(self) -> None:
        """End the request at upstream; after its end it does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._put_conn(connection)

    def detach(self) -> bool:
        """Make the response one whose body an event loop moves, in place of :meth:`stream`; nothing may have been read.

        The fields are dropped; the caller has taken those that it needs.

        :return: false if the connection is not one that can be polled (TLS within TLS).
        """
        if self._connection is None or not isinstance(self.socket, socket.socket):
            return False
        self.socket.setblocking(False)
        self.field_lines = []  # The body may be open for long.
        return True
