"""Waits for requests, so that no thread is occupied by a client that has not sent a whole request head."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from ocm_wsgi.relay.loop import Loop

#: Time for a client to send its request's head, from the head's first byte or from the connect.
HEAD_SECONDS = 30.0
# A longer head is passed on to a thread, where gunicorn applies its limits.
_MAX_HEAD_BYTES = 64 * 1024
_READ_SIZE = 16 * 1024
_END = b"\r\n\r\n"


class RequestArrival:
    """A connection on which the next request, or a TLS handshake, is expected.

    :param received: bytes of it that were read with the previous request.
    :param is_opaque: true under TLS, where the head cannot be seen; the first byte is awaited, but not read.
    :param on_arrived: called with the received bytes when a thread can handle the request.
    :param on_disconnect: called when the client has disconnected or takes too long.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        received: bytes,
        *,
        is_opaque: bool,
        on_arrived: Callable[[bytes], None],
        on_disconnect: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._fd = connection.fileno()
        self._received = bytearray(received)
        self._is_opaque = is_opaque
        self._on_arrived = on_arrived
        self._on_disconnect = on_disconnect
        self._until = loop.now + HEAD_SECONDS

    def start(self) -> None:
        """Begin by reading what is there. Usually that is the whole head, and the loop is not needed."""
        self._socket.setblocking(False)
        if _END in self._received:
            self._on_arrived(bytes(self._received))
        elif self._is_opaque or not self._read():
            self._loop.add(self)
            self._loop.watch(self._fd, select.EPOLLIN | select.EPOLLRDHUP, self._on_ready)

    def wait_at_most_until(self, until: float) -> None:
        """Shorten the deadline to at most this reading of the monotonic clock."""
        self._until = min(self._until, until)

    def check(self, now: float) -> None:
        """Give up if the client takes too long."""
        if now >= self._until:
            self._leave()
            self._on_disconnect()

    def _on_ready(self, _mask: int) -> None:
        if self._is_opaque:
            self._leave()
            self._on_arrived(b"")
        else:
            self._read()

    def _read(self) -> bool:
        """Read once; return whether the wait is over."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._leave()
            self._on_disconnect()
            return True
        # The end may be split between two reads.
        searched = max(len(self._received) - len(_END), 0)
        self._received += data
        if self._received.find(_END, searched) < 0 and len(self._received) <= _MAX_HEAD_BYTES:
            return False
        self._leave()
        self._on_arrived(bytes(self._received))
        return True

    def _leave(self) -> None:
        self._loop.discard(self)
        self._loop.forget(self._fd)
