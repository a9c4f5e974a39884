"""Closes client connections without losing the end of the response, and without blocking.

A connection that is closed with unread data from the client is reset, and the reset may overtake the end of the
response. So our side is shut down first, and further data is discarded until the client closes too (RFC 9112
section 9.6).
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable

from ocm_wsgi.gateway.environ import reset_on_close
from ocm_wsgi.relay.loop import Loop

#: How long a client may go on sending after its response.
LINGER_SECONDS = 2.0
# How much a client may send after its response.
_DRAIN_LIMIT_BYTES = 64 * 1024
_READ_SIZE = 16 * 1024


class LingeringClose:
    """A connection that is being closed.

    :param on_closed: called once, when the connection is closed.
    """

    def __init__(self, loop: Loop, connection: socket.socket, on_closed: Callable[[], None]) -> None:
        self._loop = loop
        self._socket = connection
        self._fd = connection.fileno()
        self._on_closed = on_closed
        self._left = _DRAIN_LIMIT_BYTES
        self._until = loop.now + LINGER_SECONDS

    def start(self) -> None:
        """Shut our side down, and wait for the client to close its own."""
        try:
            self._socket.setblocking(False)
            self._send_close_notify()
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._loop.add(self)
        self._loop.watch(self._fd, select.EPOLLIN | select.EPOLLRDHUP, self._on_ready)

    def check(self, now: float) -> None:
        """Close the connection if the client has had its time."""
        if now >= self._until:
            self._close()

    def _send_close_notify(self) -> None:
        """Under TLS, send ``close_notify`` (RFC 8446 section 6.1), without waiting for the client's."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()

    def _on_ready(self, _mask: int) -> None:
        try:
            # From the plain socket even under TLS: the data is discarded.
            data = socket.socket.recv(self._socket, _READ_SIZE) if self._socket.fileno() >= 0 else b""
        except BlockingIOError:
            return
        except (OSError, ValueError):
            data = b""
        self._left -= len(data)
        if not data or self._left <= 0:
            self._close()

    def _close(self) -> None:
        self._loop.discard(self)
        self._loop.forget(self._fd)
        with contextlib.suppress(OSError):
            self._socket.close()
        self._on_closed()


def reset(connection: socket.socket) -> None:
    """Close a connection with a reset, which no client takes for the end of the body."""
    with contextlib.suppress(OSError):
        reset_on_close(connection)
        connection.close()


def shut_down(connection: socket.socket) -> None:
    """Wake a thread that reads from a connection, also under TLS."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
