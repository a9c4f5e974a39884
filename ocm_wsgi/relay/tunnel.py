"""Relays one WebSocket between a client and upstream, in the event loop."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

from ocm_wsgi.errors import InternalError, OcmError
from ocm_wsgi.protocol.websocket.frames import INTERNAL_ERROR, POLICY_VIOLATION, TRY_AGAIN_LATER
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import Event, TurnBegan, TurnEnded, WebSocketSession
from ocm_wsgi.relay.held_memory import HeldShare
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import DISCONNECTED, TimedPeer
from ocm_wsgi.relay.read_on import ReadOns
from ocm_wsgi.relay.stream import CLIENT_LEFT, CLIENT_STALLED, Timeouts, UpstreamBody
from ocm_wsgi.relay.websocket_rest import read_on
from ocm_wsgi.relay.websocket_turns import WebSocketTurn, WebSocketTurns
from ocm_wsgi.upstream.exchange import SOCKET_OPTIONS

_log = logging.getLogger(__name__)

UPSTREAM_STALLED = "upstream stalled"
MESSAGE_STALLED = "client left a message unfinished"
TOO_MUCH_HELD = "too much held"


class Tunnel:
    """Relays bytes both ways, and pauses while a turn is being admitted or recorded.

    :param upstream: its ``buffered`` bytes arrived after the handshake's response.
    :param early: bytes from the client that arrived after its handshake.
    :param held: counts what is held of the client's messages.
    :param read_ons: bounds what is read on after the client has left.
    :param submit: runs a function in another thread, as admission may block for a while.
    :param defer: schedules a callback in the loop's thread; may be called from any thread.
    :param on_end: called once with the reason for the end (``""``: success). The caller then owns the client's socket.
    :ivar sent_bytes: bytes sent to the client, or buffered for it.
    """

    def __init__(
        self,
        loop: Loop,
        session: WebSocketSession[WebSocketTurn],
        turns: WebSocketTurns,
        *,
        upstream: UpstreamBody,
        client: socket.socket,
        early: bytes,
        timeouts: Timeouts,
        held: HeldShare,
        read_ons: ReadOns,
        submit: Callable[[Callable[[], None]], None],
        defer: Callable[[Callable[[], None]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.sent_bytes = 0
        self._loop = loop
        self._session = session
        self._turns = turns
        self._body = upstream
        self._upstream = TimedPeer(loop, upstream.socket, self._on_upstream)
        self._client = TimedPeer(loop, client, self._on_client)
        self._early = early
        self._timeouts = timeouts
        self._held = held
        self._read_ons = read_ons
        self._submit = submit
        self._defer = defer
        self._on_end = on_end
        self._client_active_at = loop.now  # when the client last sent something, or reading it was paused
        self._upstream_active_at = loop.now  # when upstream last sent something, or reading it was paused
        self._recording: object | None = None  # what is being recorded; later data waits
        self._recording_since = loop.now
        self._pending: deque[bytes | Event[WebSocketTurn]] = deque()
        self._reads_upstream = False
        self._is_admitting = False
        self._end: str | None = None  # set when nothing more will be sent to the client
        self._is_over = False

    def start(self) -> None:
        """Begin. The tunnel may have ended when this returns."""
        self._upstream_active_at = self._loop.now
        self._loop.add(self)
        for option in SOCKET_OPTIONS:
            # An idle WebSocket has no deadline, so keep-alive must detect a dead peer. Unix sockets lack it.
            with contextlib.suppress(OSError):
                self._client.socket.setsockopt(*option)
        buffered, self._body.buffered = self._body.buffered, b""
        early, self._early = self._early, b""
        self._guarded(self._begin, buffered, early)

    def check(self, now: float) -> None:
        """End the tunnel if it has made no progress for too long. Between two turns, silence is normal."""
        timeouts = self._timeouts
        if not self._reads_client:
            self._client_active_at = now
        if self._recording is not None:
            if now - self._recording_since > timeouts.record_seconds:
                self._guarded(self._on_recorded, self._recording)
        elif self._client.unsent and now - self._client.progress_at > timeouts.stall_seconds:
            self._finish(CLIENT_STALLED)
        elif self._upstream.unsent and now - self._upstream.progress_at > timeouts.stall_seconds:
            self._finish(UPSTREAM_STALLED)
        elif self._waits_for_rest and now - self._client_active_at > timeouts.stall_seconds:
            self._guarded(self._close_now, POLICY_VIOLATION, "A message was left unfinished.", MESSAGE_STALLED)
        elif self._session.has_open_turn and now - self._upstream_active_at > timeouts.silence_seconds:
            self._guarded(self._time_out_upstream)
        elif self._reads_upstream and self._session.has_open_turn:
            self._upstream.acknowledge_later()

    def close_when_idle(self) -> None:
        """Close the WebSocket when no turn is in progress; Codex then opens another connection."""
        if not self._is_over:
            self._session.close_when_idle()
            self._guarded(self._advance)

    def abort(self, end: str) -> None:
        """End the tunnel immediately."""
        self._finish(end)

    def _time_out_upstream(self) -> None:
        """Close the WebSocket; Codex then retries over another connection, as after any disconnect."""
        self._session.close_now(INTERNAL_ERROR, "OpenAI was silent for too long.")
        self._end_with("upstream cut it: it was silent for too long")

    def _close_now(self, code: int, reason: str, end: str) -> None:
        """End the tunnel without waiting for the client, which gets a Close frame if it can."""
        self._session.close_now(code, reason)
        if self._recording is None and not self._pending:
            self._send_to_client(self._session.data_to_send())
        self._finish(end)

    def _begin(self, buffered: bytes, early: bytes) -> None:
        if buffered:
            self._from_upstream(buffered)
        if early:
            self._from_client(early)
        self._advance()

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        """Run a step; a bug in it must end only this tunnel."""
        try:
            step(*arguments)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        _log.exception("Unhandled exception while relaying a WebSocket")
        self._finish("failed")

    def _on_upstream(self, mask: int) -> None:
        try:
            self._upstream_ready(mask)
        except Exception:
            self._fail()

    def _on_client(self, mask: int) -> None:
        self._guarded(self._client_ready, mask)

    def _upstream_ready(self, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                self._flush(self._upstream)
            data = self._upstream.receive(mask) if self._reads_upstream else None
        except OSError as exc:
            self._end_with(f"upstream cut it: {type(exc).__name__}: {exc}")
            return
        if data:
            self._from_upstream(data)
            if mask == select.EPOLLIN and not (
                self._client.unsent or self._recording is not None or self._session.has_data_to_send
            ):
                return  # The usual case: the events to wait for are unchanged.
        elif data == b"":
            self._end_with("" if self._session.close_code is not None else "upstream cut it: it ended")
            return
        elif mask & DISCONNECTED and not self._reads_upstream:
            # Upstream will not read the rest. Its end of stream is noticed when it is read again.
            self._upstream.unsent.clear()
        self._advance()

    def _client_ready(self, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                self._flush(self._client)
            data = self._client.receive(mask) if self._reads_client else None
        except OSError:
            self._finish(CLIENT_LEFT)
            return
        if data:
            self._from_client(data)
        elif data == b"" or mask & DISCONNECTED:
            self._finish("" if self._session.close_code is not None else CLIENT_LEFT)
            return
        self._advance()

    def _flush(self, peer: TimedPeer) -> None:
        unsent = len(peer.unsent)
        peer.flush()
        if len(peer.unsent) < unsent:
            peer.progress_at = self._upstream_active_at = self._loop.now

    def _from_client(self, data: bytes) -> None:
        self._client_active_at = self._loop.now
        self._forward(self._session.from_client(data))

    def _forward(self, items: list[bytes | HeldMessage]) -> None:
        for item in items:
            if isinstance(item, HeldMessage):
                self._is_admitting = True
                self._submit(partial(self._admit, item))
            else:
                self._send_to_upstream(item)

    def _admit(self, message: HeldMessage) -> None:
        """Admit a turn, or refuse it; runs in another thread."""
        if self._is_over:
            return
        turn: WebSocketTurn | None = None
        error: OcmError | None = None
        try:
            turn = self._turns.admit(message, self._session)
        except OcmError as exc:
            error = exc
        except Exception:
            _log.exception("Unhandled exception while admitting a turn")
            error = InternalError()
        self._defer(lambda: self._guarded(self._on_admitted, turn, error))

    def _on_admitted(self, turn: WebSocketTurn | None, error: OcmError | None) -> None:
        self._is_admitting = False
        if self._is_over or self._end is not None:
            if turn is not None:
                turn.release()
            return
        if turn is not None:
            self._upstream_active_at = self._loop.now
        passing = self._session.forward(turn) if error is None else self._session.refuse(error)
        self._forward(passing)
        self._advance()

    def _from_upstream(self, data: bytes) -> None:
        self._upstream_active_at = self._loop.now
        happened = self._session.from_server(data)
        if len(happened) == 1 and happened[0] is data:
            self._send_to_client(data)
        else:
            self._pending.extend(happened)
            self._flush_pending()

    def _flush_pending(self) -> None:
        """Send pending data, up to the next end of a turn that must be recorded first."""
        while self._pending and self._recording is None and not self._is_over:
            item = self._pending.popleft()
            if isinstance(item, bytes):
                self._send_to_client(item)
            elif isinstance(item, TurnEnded):
                self._hold_for(item, partial(self._turns.record, item))
            elif isinstance(item, TurnBegan):
                self._hold_for(item, partial(self._turns.begin, item))
            else:
                self._turns.note(item)

    def _hold_for(self, event: object, record: Callable[[Callable[[], None]], bool]) -> None:
        """Record an event, and send nothing more until that is safe.

        :param record: starts it and returns whether there is something to wait for.
        """
        if record(lambda: self._defer(lambda: self._guarded(self._on_recorded, event))):
            self._recording = event
            self._recording_since = self._loop.now

    def _on_recorded(self, event: object) -> None:
        """Continue: the record is safe, or has taken too long."""
        if self._is_over or self._recording is not event:
            return
        self._recording = None
        self._upstream_active_at = self._loop.now
        self._flush_pending()
        self._advance()

    def _send_to_client(self, data: bytes) -> None:
        client = self._client
        if not client.unsent:
            client.progress_at = self._loop.now
        self.sent_bytes += len(data)
        try:
            if data:
                client.send(data)
        except OSError:
            self._finish(CLIENT_LEFT)

    def _send_to_upstream(self, data: bytes) -> None:
        upstream = self._upstream
        if not upstream.unsent:
            upstream.progress_at = self._loop.now
        try:
            upstream.send(data)
        except OSError as exc:
            # Data that upstream sent before may still be unread.
            _log.debug("Upstream accepts no more data: %s", exc)

    def _end_with(self, end: str) -> None:
        """Upstream has ended: finish once the client has been sent the earlier data."""
        if self._end is None:
            self._end = end
        self._upstream.unsent.clear()
        self._advance()

    @property
    def _reads_client(self) -> bool:
        return self._end is None and not self._is_admitting and not self._upstream.unsent

    @property
    def _waits_for_rest(self) -> bool:
        """Whether the client has to send the rest of a message."""
        return self._reads_client and self._session.has_unfinished_message

    def _advance(self) -> None:
        """Send frames of the session's own, and wait for the next event, or finish."""
        if not (self._is_over or self._held.hold(self._session.held_bytes + len(self._upstream.unsent))):
            self._close_now(TRY_AGAIN_LATER, "Too many long messages at once.", TOO_MUCH_HELD)
        if not self._is_over and self._recording is None:
            self._send_own_frames()
        if not self._is_over:
            self._wait()

    def _send_own_frames(self) -> None:
        self._send_to_client(self._session.data_to_send())
        if self._session.should_close and self._end is None:
            stopped = self._session.violation
            self._end = "" if stopped is None else stopped.reason
            self._upstream.unsent.clear()

    def _wait(self) -> None:
        if self._end is not None and self._recording is None and not self._client.unsent:
            self._finish(self._end)
            return
        self._reads_upstream = self._end is None and self._recording is None and not self._client.unsent
        if self._reads_upstream or self._upstream.unsent:
            self._upstream.wait(to_read=self._reads_upstream)
        else:
            self._upstream.stop_watching()
        self._client.wait(to_read=self._reads_client)

    def _finish(self, end: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._held.hold(0)
        self._loop.discard(self)
        self._upstream.stop_watching()
        self._client.stop_watching()
        was_left = end in (CLIENT_LEFT, CLIENT_STALLED)
        try:
            self._turns.settle(self._pending, was_left=was_left)
            if was_left and read_on(self._loop, self._read_ons, self._session, self._turns, self._body):
                return
            self._body.close()
            self._turns.settle(self._session.end(), was_left=was_left)
        finally:
            self._on_end(end)
