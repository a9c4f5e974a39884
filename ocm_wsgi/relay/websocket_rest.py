"""Reads upstream's side of a WebSocket on whose client has left, up to the ends of the open turns."""

from __future__ import annotations

import logging

from ocm_wsgi.protocol.websocket.session import WebSocketSession
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import Peer
from ocm_wsgi.relay.read_on import READ_ON_SECONDS, ReadOns
from ocm_wsgi.relay.stream import UpstreamBody
from ocm_wsgi.relay.websocket_turns import WebSocketTurn, WebSocketTurns

_log = logging.getLogger(__name__)


def read_on(
    loop: Loop,
    read_ons: ReadOns,
    session: WebSocketSession[WebSocketTurn],
    turns: WebSocketTurns,
    body: UpstreamBody,
) -> bool:
    """Read the open turns of a WebSocket without its client, if there are any, for a user with limits, within bounds.

    :return: whether the session and the body are no longer the caller's.
    """
    if not (turns.reads_on and session.has_open_turn and read_ons.begin(turns.user)):
        return False
    WebSocketRest(loop, read_ons, session, turns, body).start()
    return True


class WebSocketRest:
    """The rest of one WebSocket, which must be in :meth:`ReadOns.begin`'s count. It owns the session and the body."""

    def __init__(
        self,
        loop: Loop,
        read_ons: ReadOns,
        session: WebSocketSession[WebSocketTurn],
        turns: WebSocketTurns,
        body: UpstreamBody,
    ) -> None:
        self._loop = loop
        self._read_ons = read_ons
        self._session = session
        self._turns = turns
        self._body = body
        self._upstream = Peer(loop, body.socket, self._on_upstream)
        self._until = loop.now + READ_ON_SECONDS
        self._is_over = False

    def start(self) -> None:
        """Begin to read."""
        self._read_ons.rests.add(self)
        self._loop.add(self)
        self._upstream.wait(to_read=True)

    def check(self, now: float) -> None:
        """Finish when the time is over."""
        if now > self._until:
            self.finish()

    def finish(self) -> None:
        """Record the turns that are still open, as cut, and close the connection."""
        if self._is_over:
            return
        self._is_over = True
        self._loop.discard(self)
        self._upstream.stop_watching()
        self._body.close()
        self._read_ons.rests.discard(self)
        self._read_ons.end(self._turns.user)
        self._turns.settle(self._session.end(), was_left=True)

    def _on_upstream(self, mask: int) -> None:
        try:
            data = self._upstream.receive(mask)
        except OSError:
            data = b""
        if data is None:
            return
        try:
            self._turns.settle(self._session.from_server(data), was_left=True)
        except Exception:
            _log.exception("Unhandled exception while reading a WebSocket on")
            data = b""
        if not data or not self._session.has_open_turn:
            self.finish()
