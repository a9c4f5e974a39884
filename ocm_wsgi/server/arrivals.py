"""Brings each connection to the point where a thread can serve its next request without waiting for the client."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

from gunicorn import http
from gunicorn import sock as gunicorn_sock

from ocm_wsgi.relay.decision_queue import STRANGER
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.request_arrival import MAX_HEAD_BYTES, RequestArrival
from ocm_wsgi.server.tls_handshake import TlsHandshake

_TOO_LARGE = json.dumps(
    {
        "error": {
            "type": "invalid_request_error",
            "code": "header_too_large",
            "message": f"The header is larger than the {MAX_HEAD_BYTES // 1024} KiB that this service accepts.",
        }
    }
).encode()
_TOO_LARGE_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)


class Arrivals:
    """The connections on which a request is expected. For the loop's thread only.

    :param cfg: gunicorn's settings.
    :param submit: runs something in a thread, for a client that is not known yet.
    :param user_of: returns the user who has sent a request's head, for ``on_arrived``.
    :param on_arrived: called with a connection whose request can be served, and its user.
    :param on_refused: called with a connection to close once its client has received the response.
    :param on_disconnect: called with a connection to close.
    """

    def __init__(
        self,
        loop: Loop,
        cfg: Any,
        *,
        submit: Callable[[Callable[[], None]], None],
        user_of: Callable[[bytes], str],
        on_arrived: Callable[[Any, str], None],
        on_refused: Callable[[Any], None],
        on_disconnect: Callable[[Any], None],
    ) -> None:
        self._loop = loop
        self._cfg = cfg
        self._submit = submit
        self._user_of = user_of
        self._on_arrived = on_arrived
        self._on_refused = on_refused
        self._on_disconnect = on_disconnect
        self._waiting: set[RequestArrival | TlsHandshake] = set()

    def expect(self, conn: Any) -> None:
        """Wait for the next request on a connection, which may be new."""
        if conn.parser is None and self._cfg.is_ssl:
            self._begin_tls(conn)
        else:
            self._await_request(conn, _take_buffered(conn))

    def wait_at_most_until(self, until: float) -> None:
        """Shorten all deadlines to at most this reading of the monotonic clock."""
        for waiting in self._waiting:
            waiting.wait_at_most_until(until)

    def _begin_tls(self, conn: Any) -> None:
        try:
            conn.sock = gunicorn_sock.ssl_context(self._cfg).wrap_socket(
                conn.sock,
                server_side=True,
                suppress_ragged_eofs=self._cfg.suppress_ragged_eofs,
                do_handshake_on_connect=False,
            )
        except OSError:  # The client has already disconnected.
            self._on_disconnect(conn)
            return

        def on_done() -> None:
            self._waiting.discard(handshake)
            self._end_tls(conn)

        def on_disconnect() -> None:
            self._waiting.discard(handshake)
            self._on_disconnect(conn)

        handshake = TlsHandshake(
            self._loop, conn.sock, submit=self._submit, on_done=on_done, on_disconnect=on_disconnect
        )
        self._waiting.add(handshake)
        handshake.start()

    def _end_tls(self, conn: Any) -> None:
        """Continue as gunicorn would after the handshake that it makes in ``TConn.init``."""
        conn.initialized = True
        conn.is_http2 = gunicorn_sock.is_http2_negotiated(conn.sock)
        conn.parser = http.get_parser(self._cfg, conn.sock, conn.client, http2_connection=conn.is_http2)
        if conn.is_http2:
            # gunicorn serves such a connection in one thread for as long as it lasts.
            conn.sock.setblocking(True)
            conn.parser.initiate_connection()
            self._arrived(conn, STRANGER)
        else:
            self._await_request(conn, b"")

    def _await_request(self, conn: Any, received: bytes) -> None:
        def on_arrived(received: bytes) -> None:
            self._waiting.discard(arrival)
            conn.init()
            conn.parser.unreader.unread(received)
            self._arrived(conn, self._user_of(received))

        def on_too_large() -> None:
            self._waiting.discard(arrival)
            _respond(conn.sock)
            self._on_refused(conn)

        def on_disconnect() -> None:
            self._waiting.discard(arrival)
            self._on_disconnect(conn)

        arrival = RequestArrival(
            self._loop,
            conn.sock,
            received,
            on_arrived=on_arrived,
            on_too_large=on_too_large,
            on_disconnect=on_disconnect,
        )
        self._waiting.add(arrival)
        arrival.start()

    def _arrived(self, conn: Any, user: str) -> None:
        conn.data_ready = True
        self._on_arrived(conn, user)


def _take_buffered(conn: Any) -> bytes:
    """Return what has been read beyond the previous request, and let gunicorn forget that one.

    It has been answered and its body has been read to the end, or the connection would be closed. gunicorn would keep
    it while the connection is idle, and then make sure of both again.
    """
    if conn.parser is None:
        return b""
    conn.parser.mesg = None
    return bytes(conn.parser.unreader.take_buffered())


def _respond(connection: socket.socket) -> None:
    """Send the refusal of a head that is too large. It fits into the buffer of a socket that was not written to."""
    with contextlib.suppress(OSError):
        connection.send(_TOO_LARGE_RESPONSE)


def has_unread(connection: socket.socket) -> bool:
    """Return whether the TLS layer has data that no poll of the socket would report."""
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
