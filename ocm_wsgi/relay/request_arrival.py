"""Waits for requests, so that no thread is occupied by a client that has not sent a whole request head."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable

from ocm_wsgi.protocol.http.form_arrival import FORM_SECONDS, form_length
from ocm_wsgi.relay.loop import Loop

#: Time for a client to send its request's head, from the head's first byte or from the connect.
HEAD_SECONDS = 30.0
#: A longer head is refused. As much as nginx accepts with the settings in deploy/nginx.conf.
MAX_HEAD_BYTES = 128 * 1024
# At least as large as a TLS record, so that nothing stays in the TLS layer, where the loop would not see it.
_READ_SIZE = 16 * 1024
_END = b"\r\n\r\n"


class RequestArrival:
    """A connection on which the next request is expected: its head, and its body too if that is a form.

    :param connection: under TLS, its handshake is complete.
    :param received: bytes of the request that were read with the previous one.
    :param on_arrived: called with the received bytes when a thread can handle the request.
    :param on_too_large: called when the head is too large.
    :param on_disconnect: called when the client has disconnected or takes too long.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        received: bytes,
        *,
        on_arrived: Callable[[bytes], None],
        on_too_large: Callable[[], None],
        on_disconnect: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._fd = connection.fileno()
        self._received = bytearray(received)
        self._searched = 0
        self._size: int | None = None
        self._on_arrived = on_arrived
        self._on_too_large = on_too_large
        self._on_disconnect = on_disconnect
        self._until = loop.now + HEAD_SECONDS

    def start(self) -> None:
        """Begin by reading what is there. Usually that is the whole head, and the loop is not needed."""
        if self._socket.gettimeout() != 0:
            self._socket.setblocking(False)
        if not self._is_over() and not self._read():
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
        self._read()

    def _read(self) -> bool:
        """Read what is there; return whether the wait is over."""
        while True:
            try:
                data = self._socket.recv(_READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError:
                data = b""
            if not data:
                self._leave()
                self._on_disconnect()
                return True
            self._received += data
            if self._is_over():
                return True

    def _is_over(self) -> bool:
        """Pass the request on if it has arrived, or refuse it; return whether one of them was done."""
        if self._size is None:
            self._find_size()
        if self._size is not None and len(self._received) >= self._size:
            self._leave()
            self._on_arrived(bytes(self._received))
            return True
        if self._size is None and len(self._received) > MAX_HEAD_BYTES:
            self._leave()
            self._on_too_large()
            return True
        return False

    def _find_size(self) -> None:
        end = self._received.find(_END, self._searched)
        # The end may be split between two reads.
        self._searched = max(len(self._received) - len(_END), 0)
        if end >= 0:
            size = end + len(_END)
            length = form_length(bytes(self._received[:size]))
            self._size = size + length
            if length:
                self._until = min(self._until, self._loop.now + FORM_SECONDS)

    def _leave(self) -> None:
        self._loop.discard(self)
        self._loop.forget(self._fd)
