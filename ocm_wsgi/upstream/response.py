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
    :ivar headers: empty: urllib3 looks for a ``Retry-After`` there, which is the client's business.
    """

    def __init__(self, connection: Any, head: ResponseHead, rest: bytes, method: str) -> None:
        """:raises HeadError: it cannot be told where the body ends."""
        self.status = head.status
        self.reason = head.reason
        self.field_lines: Fields = head.fields
        self.version_string = "HTTP/1.1" if head.is_http_1_1 else "HTTP/1.0"
        self.headers: dict[str, str] = {}
        self.is_chunked, self.length_remaining = head.framing(method)
        self._rest = rest
        self._can_stay = head.keeps_alive and (self.is_chunked or self.length_remaining is not None)
        # urllib3's pool sets these two; the connection is ours until it is given back.
        self._connection = connection
        self._pool: Any = None
        self.retries: Any = None

    def stream(self, amount: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield what is there, as soon as anything is: at most :data:`BLOCK_SIZE` octets at a time, never decoded.

        ``decode_content`` is requests' wish to decode; fields that describe an encoded body would then lie.

        :raises ProtocolError: the body ended before its end, or makes no sense.
        """
        connection_socket = self._connection.sock
        framing = framing_for(is_chunked=self.is_chunked, length=self.length_remaining)
        data = self._take_rest()
        try:
            while True:
                if data and (piece := framing.feed(data)):
                    yield piece
                if framing.has_ended:
                    break
                data = connection_socket.recv(BLOCK_SIZE)
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

    def _take_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest

    def give_back(self) -> None:
        """The body was read to its end: the connection may serve another request."""
        if not self._can_stay or self._rest:
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

    def raw_body(self) -> RawBody | None:
        """Hand out the body as it is on the wire, of which nothing has been read yet, in place of :meth:`stream`.

        The fields are gone then; whoever wants them has taken them.

        :return: ``None`` where the connection is none that one could wait for (TLS within TLS).
        """
        connection_socket = None if self._connection is None else self._connection.sock
        if not isinstance(connection_socket, socket.socket):
            return None
        connection_socket.setblocking(False)
        self.field_lines = []  # The body may be open for long.
        return RawBody(self, connection_socket, self._take_rest())


class RawBody:
    """A response's body on the wire, for who waits for many at once. Its socket does not block.

    :ivar buffered: octets that were read off the socket already.
    :ivar length: in octets; ``None`` for a chunked body, and for one that the connection's end ends.
    """

    def __init__(self, response: RawResponse, connection_socket: socket.socket, buffered: bytes) -> None:
        self.socket = connection_socket
        self.buffered = buffered
        self.is_chunked = response.is_chunked
        self.length = response.length_remaining
        self.give_back = response.give_back
        self.close = response.close
