"""A socket that is never waited for: what cannot be read or sent now is heard of when it can."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

#: At most so much is read at once, and so much waits for a receiver that is slow, in octets.
READ_SIZE = 64 * 1024

#: What a socket that does not block raises when it cannot go on, plain or under TLS.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: The peer has closed its side, or the connection is broken.
DISCONNECTED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Poll(Protocol):
    """What tells when a socket is ready; see ``loop``."""

    def watch(self, fd: int, mask: int, on_ready: Callable[[int], None]) -> None:
        """Call when any of these events holds, as often as it does; a mask given before is replaced."""

    def rearm(self, fd: int) -> None:
        """Call of what holds now, also of an edge that was told; nothing happens where nothing is watched."""

    def forget(self, fd: int) -> None:
        """Do not call again; nothing happens where nothing was watched."""


class Peer:
    """One end of a relay.

    A socket that only hears of its peer's end waits with ``DISCONNECTED``; nothing is read from it.

    What can be read is told once (``EPOLLET``): epoll need not look at the socket again to find it empty. A read that
    gave less than was asked for has emptied it; after any other, and when the peer's end was told with it,
    :meth:`rearm` is due. Not so under TLS, of which a read gives one record, however many there are.

    :param on_ready: called with the events that hold.
    :ivar unsent: octets that the peer has not taken yet.
    """

    __slots__ = ("_fd", "_on_ready", "_poll", "_reading", "socket", "unsent")

    def __init__(self, poll: Poll, connection: socket.socket, on_ready: Callable[[int], None]) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.unsent = bytearray()
        self._fd = connection.fileno()
        self._poll = poll
        self._on_ready = on_ready
        self._reading = select.EPOLLIN if isinstance(connection, ssl.SSLSocket) else select.EPOLLIN | select.EPOLLET

    def wait(self, *, to_read: bool = False) -> None:
        """Hear of what can be read, or only of the peer's end; and of room for what is unsent."""
        mask = select.EPOLLRDHUP
        if to_read:
            mask |= self._reading
        if self.unsent:
            mask |= select.EPOLLOUT
        self._poll.watch(self._fd, mask, self._on_ready)

    def rearm(self, mask: int, data: bytes) -> None:
        """To be called behind a read: hear at once of what may still be there.

        :param mask: the events that were told.
        :param data: what was read.
        """
        if mask != select.EPOLLIN or len(data) == READ_SIZE:
            self._poll.rearm(self._fd)

    def leave(self) -> None:
        """Hear of nothing any more."""
        self._poll.forget(self._fd)

    def acknowledge_later(self) -> None:
        """Have the kernel acknowledge every other event of a stream instead of each (RFC 9293 section 3.8.6.3).

        An acknowledgement costs a third of what receiving the event does. The kernel goes back to acknowledging all
        when it had to send one that nothing else came for within 40 ms, so this is to be said again after a pause.
        """
        with contextlib.suppress(OSError):  # of a socket that is not TCP
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def receive(self) -> bytes | None:
        """What has arrived; ``b""`` at the end, ``None`` when nothing has.

        :raises OSError: the connection is broken.
        """
        try:
            # Under TLS too one read takes all that was decrypted: a record is smaller than what is asked for. So
            # nothing hides in the TLS layer, where poll would not see it.
            return self.socket.recv(READ_SIZE)
        except _WOULD_BLOCK:
            return None

    def send(self, data: bytes) -> bool:
        """Send, behind what is unsent; return whether all is gone.

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
        """Send what is unsent, as far as there is room; return whether all is gone.

        :raises OSError: the connection is broken.
        """
        with contextlib.suppress(*_WOULD_BLOCK):
            while self.unsent:
                sent = self.socket.send(self.unsent)
                del self.unsent[:sent]
        return not self.unsent
