"""A non-blocking socket with a write buffer."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable

from ocm_wsgi.relay.loop import Loop

#: Largest read, and so the most that is buffered for a slow receiver, in bytes.
READ_SIZE = 64 * 1024

# Raised by a non-blocking socket that would block, plain or under TLS.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: The peer has closed its side, or the connection is broken.
DISCONNECTED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Peer:
    """One end of a relay.

    Without ``to_read``, :meth:`wait` only reports a disconnect (``DISCONNECTED``), and nothing is read.

    Readability is edge-triggered (``EPOLLET``), so that epoll need not poll the socket again to find it empty. A read
    that returns less than was requested has emptied the socket; after any other read, or if a disconnect was reported
    with it, :meth:`receive` re-arms it. TLS is level-triggered: a read returns one record, however many there are.

    :param on_ready: called with the events that occurred.
    :ivar unsent: bytes that the socket has not accepted yet.
    """

    __slots__ = ("_fd", "_loop", "_on_ready", "_read", "_reading", "socket", "unsent")

    def __init__(self, loop: Loop, connection: socket.socket, on_ready: Callable[[int], None]) -> None:
        if connection.gettimeout() != 0:
            connection.setblocking(False)
        self.socket = connection
        self.unsent = bytearray()
        self._fd = connection.fileno()
        self._loop = loop
        self._on_ready = on_ready
        # recv() of TLS calls read(), after checks that read() makes too.
        self._read = connection.read if isinstance(connection, ssl.SSLSocket) else connection.recv
        self._reading = select.EPOLLIN if isinstance(connection, ssl.SSLSocket) else select.EPOLLIN | select.EPOLLET

    def wait(self, *, to_read: bool = False) -> None:
        """Wait for a disconnect, with ``to_read`` for data, and for writability if anything is unsent."""
        mask = select.EPOLLRDHUP
        if to_read:
            mask |= self._reading
        if self.unsent:
            mask |= select.EPOLLOUT
        self._loop.watch(self._fd, mask, self._on_ready)

    def stop_watching(self) -> None:
        """Stop watching the socket."""
        self._loop.forget(self._fd)

    def acknowledge_later(self) -> None:
        """Delay ACKs: acknowledge every other event of a stream instead of each (RFC 9293 section 3.8.6.3).

        An ACK costs a third of what receiving the event does. The kernel resumes immediate ACKs once a delayed one
        has timed out (40 ms without further data), so this must be repeated after a pause.
        """
        with contextlib.suppress(OSError):  # not a TCP socket
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def receive(self, mask: int) -> bytes | None:
        """Return the bytes that have arrived; ``b""`` at the end, ``None`` if there are none yet.

        :param mask: the events that led to the read.
        :raises OSError: the connection is broken.
        """
        try:
            # Under TLS, too, one read takes all decrypted data, as a record is smaller than READ_SIZE. So no data
            # remains in the TLS layer, where epoll would not see it.
            data = self._read(READ_SIZE)
        except _WOULD_BLOCK:
            return None
        if (mask != select.EPOLLIN and data) or len(data) == READ_SIZE:
            self._loop.rearm(self._fd)  # The read may not have emptied the socket.
        return data

    def send(self, data: bytes) -> bool:
        """Send after what is unsent; return whether nothing is left to send.

        :raises OSError: the connection is broken.
        """
        if self.unsent:
            self.unsent += data
            return False
        try:
            sent = self.socket.send(data)
        except _WOULD_BLOCK:
            sent = 0
        if sent == len(data):
            return True
        self.unsent += data[sent:]
        return False

    def flush(self) -> bool:
        """Send what is unsent, as far as possible; return whether nothing is left to send.

        :raises OSError: the connection is broken.
        """
        with contextlib.suppress(*_WOULD_BLOCK):
            while self.unsent:
                sent = self.socket.send(self.unsent)
                del self.unsent[:sent]
        return not self.unsent


class TimedPeer(Peer):
    """A peer, with the time at which it last accepted buffered bytes, or had none to accept."""

    __slots__ = ("progress_at",)
    progress_at: float
