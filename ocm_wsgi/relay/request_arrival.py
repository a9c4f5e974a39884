"""Requests on their way in: no thread is taken up by a client that has not said what it wants."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from ocm_wsgi.relay.loop import Loop

#: A client must have sent its request's head within this time from its first octet, or from its connect.
HEAD_SECONDS = 30.0
#: A head that grows beyond this goes on in a thread, which knows what is too large.
_HELD_BYTES = 64 * 1024
_READ_SIZE = 16 * 1024
_END = b"\r\n\r\n"


class RequestArrival:
    """A connection on which the next request is expected, or a handshake.

    :param received: octets of it that came with the request before.
    :param is_opaque: under TLS, where the head cannot be told; the first octet is waited for, and not read.
    :param on_arrived: called with what was received when there is something to do for a thread.
    :param on_gone: called when the client left or took too long.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        received: bytes,
        *,
        is_opaque: bool,
        on_arrived: Callable[[bytes], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._fd = connection.fileno()
        self._received = bytearray(received)
        self._is_opaque = is_opaque
        self._on_arrived = on_arrived
        self._on_gone = on_gone
        self._until = loop.now + HEAD_SECONDS

    def start(self) -> None:
        """Begin. What is there already is taken at once; mostly that is all, and the loop need not be asked."""
        self._socket.setblocking(False)
        if _END in self._received:
            self._on_arrived(bytes(self._received))
        elif self._is_opaque or not self._read():
            self._loop.add(self)
            self._loop.watch(self._fd, select.EPOLLIN | select.EPOLLRDHUP, self._on_ready)

    def hurry(self, until: float) -> None:
        """Wait no longer than this."""
        self._until = min(self._until, until)

    def check(self, now: float) -> None:
        """Give up when the time is over."""
        if now >= self._until:
            self._leave()
            self._on_gone()

    def _on_ready(self, _mask: int) -> None:
        if self._is_opaque:
            self._leave()
            self._on_arrived(b"")
        else:
            self._read()

    def _read(self) -> bool:
        """Read once; return whether it is over with that."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._leave()
            self._on_gone()
            return True
        # The end may lie across two reads.
        searched = max(len(self._received) - len(_END), 0)
        self._received += data
        if self._received.find(_END, searched) < 0 and len(self._received) <= _HELD_BYTES:
            return False
        self._leave()
        self._on_arrived(bytes(self._received))
        return True

    def _leave(self) -> None:
        self._loop.discard(self)
        self._loop.forget(self._fd)
