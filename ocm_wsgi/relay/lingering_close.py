"""Closing a client's connection so that what was sent last arrives, without waiting for it.

A connection that is closed while octets of the client are unread is reset, and the reset may overtake the end of the
response. So our side is closed first, and what the client still sends is read away until it closes too (RFC 9112
section 9.6).
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable

from ocm_wsgi.relay.loop import Loop

#: How long, and how much, a client may go on after its response.
LINGER_SECONDS = 2.0
_DRAIN_LIMIT_BYTES = 64 * 1024
_READ_SIZE = 16 * 1024


class LingeringClose:
    """A connection on its way to being closed.

    :param on_closed: called once, when it is.
    """

    def __init__(self, loop: Loop, connection: socket.socket, on_closed: Callable[[], None]) -> None:
        self._loop = loop
        self._socket = connection
        self._fd = connection.fileno()
        self._on_closed = on_closed
        self._left = _DRAIN_LIMIT_BYTES
        self._until = loop.now + LINGER_SECONDS

    def start(self) -> None:
        """Close our side, and wait for the client to close its own."""
        try:
            self._socket.setblocking(False)
            self._say_goodbye()
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._loop.add(self)
        self._loop.watch(self._fd, select.EPOLLIN | select.EPOLLRDHUP, self._on_ready)

    def check(self, now: float) -> None:
        """Close when the time is over."""
        if now >= self._until:
            self._close()

    def _say_goodbye(self) -> None:
        """Under TLS, tell that the end is meant (RFC 8446 section 6.1), without waiting for an answer."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()

    def _on_ready(self, _mask: int) -> None:
        try:
            # Of the plain socket, under TLS too: nobody reads this.
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
    """Close a connection with a reset: a client that takes a close for the end of the body cannot mistake that."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
