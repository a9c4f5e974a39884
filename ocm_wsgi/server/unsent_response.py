"""Sends responses that are not relayed, such as pages and refusals, to clients that are slow to read them.

A thread sends what the kernel takes at once, which usually is all of it. For the rest no thread waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ocm_wsgi.gateway.environ import CLIENT_STALL_SECONDS
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import DISCONNECTED, Peer
from ocm_wsgi.server.request_adapters import Outgoing


class UnsentResponse:
    """The rest of a response.

    :ivar keeps_alive: whether the connection can serve another request afterwards.
    """

    def __init__(self, conn: Any, data: bytes, *, keeps_alive: bool) -> None:
        self.conn = conn
        self.data = data
        self.keeps_alive = keeps_alive


def send_now(conn: Any, *, keeps_alive: bool) -> UnsentResponse | bool:
    """Send the response that was buffered, as far as the client takes it without waiting. For a thread.

    :return: the rest of it, or whether the connection can serve another request.
    """
    outgoing: Outgoing | None = conn.__dict__.pop("outgoing", None)
    if outgoing is None or not outgoing.data:
        return keeps_alive
    peer = Peer(None, conn.sock, _ignore)  # type: ignore[arg-type]  # it does not wait for anything
    try:
        is_sent = peer.send(bytes(outgoing.data))
    except OSError:
        return False
    return keeps_alive if is_sent else UnsentResponse(conn, bytes(peer.unsent), keeps_alive=keeps_alive)


def _ignore(_mask: int) -> None: ...


class UnsentResponses:
    """The connections whose clients are slow to read. For the loop's thread only.

    :param on_sent: called with the connection of a response that was sent, and whether it can serve another request.
    :param on_disconnect: called with a connection whose client has left, or has read nothing for too long.
    """

    def __init__(
        self, loop: Loop, *, on_sent: Callable[[Any, bool], None], on_disconnect: Callable[[Any], None]
    ) -> None:
        self._loop = loop
        self._on_sent = on_sent
        self._on_disconnect = on_disconnect
        self._senders: set[_Sender] = set()

    def send(self, response: UnsentResponse) -> None:
        """Send the rest of a response."""

        def on_end(is_sent: bool) -> None:
            self._senders.discard(sender)
            if is_sent:
                self._on_sent(response.conn, response.keeps_alive)
            else:
                self._on_disconnect(response.conn)

        sender = _Sender(self._loop, response, on_end)
        self._senders.add(sender)
        sender.start()

    def abort_all(self) -> None:
        """Give up what was not sent."""
        for sender in list(self._senders):
            sender.end(is_sent=False)


class _Sender:
    def __init__(self, loop: Loop, response: UnsentResponse, on_end: Callable[[bool], None]) -> None:
        self._loop = loop
        self._peer = Peer(loop, response.conn.sock, self._on_ready)
        self._peer.unsent += response.data
        self._on_end = on_end
        self._until = loop.now + CLIENT_STALL_SECONDS
        self._has_ended = False

    def start(self) -> None:
        self._loop.add(self)
        self._peer.wait()

    def check(self, now: float) -> None:
        if now >= self._until:
            self.end(is_sent=False)

    def end(self, *, is_sent: bool) -> None:
        """Stop, and report it once."""
        if not self._has_ended:
            self._has_ended = True
            self._loop.discard(self)
            self._peer.stop_watching()
            self._on_end(is_sent)

    def _on_ready(self, mask: int) -> None:
        unsent = len(self._peer.unsent)
        try:
            is_sent = not mask & DISCONNECTED and self._peer.flush()
        except OSError:
            self.end(is_sent=False)
            return
        if mask & DISCONNECTED or is_sent:
            self.end(is_sent=is_sent)
        elif len(self._peer.unsent) < unsent:
            self._until = self._loop.now + CLIENT_STALL_SECONDS
