"""One WebSocket between a client and upstream, in the event loop."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.websocket.frames import INTERNAL_ERROR
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import LimitsReceived, TurnEnded, WebSocketSession
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.peer import GONE, Peer
from ocm_wsgi.relay.stream import CLIENT_LEFT, CLIENT_STALLED, Limits, UpstreamBody
from ocm_wsgi.relay.websocket_turns import SocketTurn, SocketTurns
from ocm_wsgi.upstream.exchange import SOCKET_OPTIONS

logger = logging.getLogger(__name__)

UPSTREAM_STALLED = "upstream stalled"


class _Side(Peer):
    """A peer, and when it last took something of what was to be sent to it, or had taken all."""

    __slots__ = ("took_at",)
    took_at: float


class Tunnel:
    """Moves octets both ways, and stops where a turn is to be decided about or to be recorded.

    :param upstream: its ``buffered`` octets came behind the answer to the handshake.
    :param early: octets of the client that came behind its handshake.
    :param submit: has something done in another thread: decisions may take a while.
    :param defer: has something called soon, in the loop's thread; callable from any thread.
    :param on_end: called once, with how it ended, ``""`` being well. The client's socket is its caller's again.
    :ivar octets: that went to the client.
    """

    def __init__(
        self,
        loop: Loop,
        session: WebSocketSession[SocketTurn],
        turns: SocketTurns,
        *,
        upstream: UpstreamBody,
        client: socket.socket,
        early: bytes,
        limits: Limits,
        submit: Callable[[Callable[[], None]], None],
        defer: Callable[[Callable[[], None]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.octets = 0
        self._loop = loop
        self._session = session
        self._turns = turns
        self._body = upstream
        self._upstream = _Side(loop, upstream.socket, self._on_upstream)
        self._client = _Side(loop, client, self._on_client)
        self._early = early
        self._limits = limits
        self._submit = submit
        self._defer = defer
        self._on_end = on_end
        self._heard_at = loop.now  # when upstream last said something, or could not be listened to
        self._recording: object | None = None  # the end of a turn that is being recorded; what follows waits
        self._recording_since = loop.now
        self._waiting: deque[bytes | TurnEnded[SocketTurn] | LimitsReceived] = deque()
        self._is_listening = False  # to upstream
        self._is_deciding = False
        self._unanswered: SocketTurn | None = None
        self._end: str | None = None  # set when nothing more comes for the client
        self._is_over = False

    def start(self) -> None:
        """Begin. It may be over when this returns."""
        self._heard_at = self._loop.now
        self._loop.add(self)
        for option in SOCKET_OPTIONS:
            # An idle socket has no deadline, so the kernel must notice a machine that is gone. None on a Unix socket.
            with contextlib.suppress(OSError):
                self._client.socket.setsockopt(*option)
        buffered, self._body.buffered = self._body.buffered, b""
        early, self._early = self._early, b""
        self._guarded(self._begin, buffered, early)

    def check(self, now: float) -> None:
        """Look at what is waited for, and for how long it has been. Between two turns silence is no fault."""
        limits = self._limits
        if self._recording is not None:
            if now - self._recording_since > limits.record:
                self._guarded(self._recorded, self._recording)
        elif self._client.unsent and now - self._client.took_at > limits.stall:
            self._finish(CLIENT_STALLED)
        elif self._upstream.unsent and now - self._upstream.took_at > limits.stall:
            self._finish(UPSTREAM_STALLED)
        elif self._session.has_open_turn and now - self._heard_at > limits.silence:
            self._guarded(self._give_up_on_upstream)
        elif self._is_listening and self._session.has_open_turn:
            self._upstream.acknowledge_later()

    def leave(self) -> None:
        """End it between two turns; Codex goes on over another connection."""
        if not self._is_over:
            self._session.close_when_idle()
            self._guarded(self._go_on)

    def abort(self, end: str) -> None:
        """Give it up."""
        self._finish(end)

    def _give_up_on_upstream(self) -> None:
        """Codex asks again over another connection, as it does when this one is cut."""
        self._session.close_now(INTERNAL_ERROR, "OpenAI was silent for too long.")
        self._end_with("upstream cut it: it was silent for too long")

    def _begin(self, buffered: bytes, early: bytes) -> None:
        if buffered:
            self._from_upstream(buffered)
        if early:
            self._from_client(early)
        self._go_on()

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        """A defect may end a tunnel, and nothing else."""
        try:
            step(*arguments)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        logger.exception("A WebSocket failed")
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
            data = self._upstream.receive() if self._is_listening else None
        except OSError as exc:
            self._end_with(f"upstream cut it: {type(exc).__name__}: {exc}")
            return
        if data:
            self._from_upstream(data)
            self._upstream.look_again(mask, data)
            if mask == select.EPOLLIN and not (
                self._client.unsent or self._recording is not None or self._session.has_data_to_send
            ):
                return  # As most times: what is waited for is what was waited for before.
        elif data == b"":
            self._end_with("" if self._session.close_code is not None else "upstream cut it: it ended")
            return
        elif mask & GONE and not self._is_listening:
            # Nobody will take what it has not taken. Its own end is heard when it is read again.
            self._upstream.unsent.clear()
        self._go_on()

    def _client_ready(self, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                self._flush(self._client)
            data = self._client.receive() if self._reads_client else None
        except OSError:
            self._finish(CLIENT_LEFT)
            return
        if data:
            self._from_client(data)
            self._client.look_again(mask, data)
        elif data == b"" or mask & GONE:
            self._finish("" if self._session.close_code is not None else CLIENT_LEFT)
            return
        self._go_on()

    def _flush(self, peer: _Side) -> None:
        unsent = len(peer.unsent)
        peer.flush()
        if len(peer.unsent) < unsent:
            peer.took_at = self._heard_at = self._loop.now

    def _from_client(self, data: bytes) -> None:
        self._to_upstream(self._session.from_client(data))

    def _to_upstream(self, items: list[bytes | HeldMessage]) -> None:
        for item in items:
            if isinstance(item, HeldMessage):
                self._is_deciding = True
                self._submit(partial(self._decide, item))
            else:
                self._ask(item)

    def _decide(self, message: HeldMessage) -> None:
        """Called in another thread."""
        turn: SocketTurn | None = None
        error: OcmError | None = None
        try:
            turn = self._turns.asked(message)
        except OcmError as exc:
            error = exc
        except Exception:
            logger.exception("A turn could not be decided about")
            error = OcmError("This service failed. Its log says why.")
        self._defer(lambda: self._guarded(self._decided, turn, error))

    def _decided(self, turn: SocketTurn | None, error: OcmError | None) -> None:
        self._is_deciding = False
        if self._is_over or self._end is not None:
            if turn is not None:
                turn.let_go()
            return
        if turn is not None:
            self._unanswered, self._heard_at = turn, self._loop.now
        passing = self._session.forward(turn) if error is None else self._session.refuse(error)
        self._to_upstream(passing)
        self._go_on()

    def _from_upstream(self, data: bytes) -> None:
        self._heard_at = self._loop.now
        if self._unanswered is not None:
            self._unanswered.response_started = self._loop.now
            self._unanswered = None
        happened = self._session.from_server(data)
        if len(happened) == 1 and happened[0] is data:
            self._tell(data)
        else:
            self._waiting.extend(happened)
            self._pass_on()

    def _pass_on(self) -> None:
        """Send what waits, up to the next end of a turn that must be recorded first."""
        while self._waiting and self._recording is None and not self._is_over:
            item = self._waiting.popleft()
            if isinstance(item, bytes):
                self._tell(item)
            elif isinstance(item, TurnEnded):
                self._record(item)
            else:
                self._turns.note(item.limits)

    def _record(self, end: TurnEnded[SocketTurn]) -> None:
        if self._turns.ended(end, lambda: self._defer(lambda: self._guarded(self._recorded, end))):
            self._recording = end
            self._recording_since = self._loop.now

    def _recorded(self, end: object) -> None:
        """Send on: the turn's record is safe, or has taken too long."""
        if self._is_over or self._recording is not end:
            return
        self._recording = None
        self._heard_at = self._loop.now
        self._pass_on()
        self._go_on()

    def _tell(self, data: bytes) -> None:
        client = self._client
        if not client.unsent:
            client.took_at = self._loop.now
        self.octets += len(data)
        try:
            if data:
                client.send(data)
        except OSError:
            self._finish(CLIENT_LEFT)

    def _ask(self, data: bytes) -> None:
        upstream = self._upstream
        if not upstream.unsent:
            upstream.took_at = self._loop.now
        try:
            upstream.send(data)
        except OSError as exc:
            # What it said before may still be there to be read.
            logger.debug("upstream takes nothing more: %s", exc)

    def _end_with(self, end: str) -> None:
        """Nothing more comes from upstream: the client gets what came before."""
        if self._end is None:
            self._end = end
        self._upstream.unsent.clear()
        self._go_on()

    @property
    def _reads_client(self) -> bool:
        return self._end is None and not self._is_deciding and not self._upstream.unsent

    def _go_on(self) -> None:
        """Say what is ours to say, and wait for what is next."""
        if not self._is_over and self._recording is None:
            self._speak()
        if not self._is_over:
            self._wait()

    def _speak(self) -> None:
        self._tell(self._session.data_to_send())
        if self._session.should_close and self._end is None:
            stopped = self._session.violation
            self._end = "" if stopped is None else stopped.reason
            self._upstream.unsent.clear()

    def _wait(self) -> None:
        if self._end is not None and self._recording is None and not self._client.unsent:
            self._finish(self._end)
            return
        self._is_listening = self._end is None and self._recording is None and not self._client.unsent
        if self._is_listening or self._upstream.unsent:
            self._upstream.wait(to_read=self._is_listening)
        else:
            self._upstream.leave()
        self._client.wait(to_read=self._reads_client)

    def _finish(self, end: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._loop.discard(self)
        self._upstream.leave()
        self._client.leave()
        self._body.close()
        try:
            for ended in [*self._waiting, *self._session.end()]:
                if isinstance(ended, TurnEnded):
                    self._turns.ended(ended, _nobody_waits)
        finally:
            self._on_end(end)


def _nobody_waits() -> None:
    """Nobody is left to be told."""
