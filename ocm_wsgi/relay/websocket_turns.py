"""The turns of one WebSocket: admitted when requested, recorded when they end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace

from ocm_wsgi.accounting.recorder import Durability
from ocm_wsgi.accounting.turn_accounting import Accounting, TurnInProgress, TurnRequest, nothing_to_release
from ocm_wsgi.admission.admission import CONCURRENCY_RETRY_SECONDS, Admission
from ocm_wsgi.errors import MessageRejected, TooManyConcurrent
from ocm_wsgi.protocol.responses.estimate import OutputMeter
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage
from ocm_wsgi.protocol.websocket.handshake import ENDPOINT
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import (
    Event,
    LimitsReceived,
    TurnBegan,
    TurnDropped,
    TurnEnded,
    WebSocketSession,
)
from ocm_wsgi.relay.websocket_objects import WebSocketObjects
from ocm_wsgi.telemetry import counters
from ocm_wsgi.telemetry.live_requests import TrackedTurn, Tracker
from ocm_wsgi.users.user import User

_NO_SUCH_RESPONSE = "This WebSocket has no response with this ID."

#: The most turns in progress on one WebSocket.
MAX_OPEN_TURNS = 64


def nothing_to_begin() -> Callable[[], None]:
    """Begin nothing."""
    return nothing_to_release


class SharedSlot:
    """A user's slot for a concurrent turn, held until that turn and those that follow it in its place have ended.

    :param release: called once, when the last of them has ended. Any thread may call the methods.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._holders = 1
        self._lock = threading.Lock()

    def share(self) -> bool:
        """Add a holder, which must call :meth:`release`. Return whether the slot was still held."""
        with self._lock:
            if self._holders:
                self._holders += 1
                return True
            return False

    def release(self) -> None:
        """Remove a holder."""
        with self._lock:
            self._holders -= 1
            is_last = self._holders == 0
        if is_last:
            self._release()


class WebSocketTurn(TurnInProgress):
    """A turn that was requested over a WebSocket.

    :param slot: the turn's slot, of which it is one of the holders.
    :param on_end: called when the turn is no longer in progress.
    :ivar is_prewarm: whether the turn generates nothing.
    :ivar meter: of its output, once it has ended.
    """

    def __init__(
        self,
        request: TurnRequest,
        slot: SharedSlot,
        on_end: Callable[[], None],
        *,
        week_start: int | None,
        message: ClientMessage | None,
    ) -> None:
        super().__init__(
            request, status=200, transport="websocket", week_start=week_start, request_id=request.request_id
        )
        self.is_prewarm = message is not None and message.is_prewarm
        self.slot = slot
        self._waits_for_another = message is not None and message.purpose == "steer"
        self._has_begun = False
        self._on_end = on_end
        self.meter: OutputMeter | None = None

    @property
    def has_begun(self) -> bool:
        """Whether upstream has begun to respond."""
        return self._has_begun

    def output_tokens(self) -> int:
        """Return an estimate of the output that passed, in tokens."""
        return 0 if self.meter is None else self.meter.tokens()

    def begin(self, now: float) -> None:
        """Note that upstream has begun to respond.

        :param now: on the monotonic clock.
        """
        if not self._has_begun:
            self._has_begun = True
            self._start(now)

    def end(self, now: float, meter: OutputMeter | None) -> None:
        """Note that the turn has ended, whether upstream had begun to respond or not."""
        self.meter = meter
        if not self._has_begun:
            self._start(now)

    def _start(self, now: float) -> None:
        self.response_started = now
        if self._waits_for_another:
            # Until now, the response that it follows was in progress.
            self.request = replace(self.request, started_at=time.time(), started=now)

    def release(self) -> None:
        """End the turn's progress, so that the user's next turn may begin."""
        self.request.release()
        self._on_end()


class WebSocketTurns:
    """Admits and records the turns of one WebSocket.

    :param authenticate: returns the socket's user as of now, or raises if they are refused.
    :param objects: the stored objects that its messages name and its responses are.
    :param path: path of the handshake.
    :param request_id: the client's name for its handshake, or ``""``.
    :param week_start: start of the subscription's week, if the handshake reported it.
    :param track_turn: called at the start of each turn.
    :param begin_turn: called in a thread before each turn that a message starts, but for those that join another one.
        May refuse it, and returns what to call at its end.
    :ivar reads_on: whether to read the answers on if the client leaves, because the user has limits.
    """

    def __init__(
        self,
        authenticate: Callable[[], User],
        admission: Admission,
        accounting: Accounting,
        objects: WebSocketObjects,
        *,
        user: str,
        path: str,
        request_id: str,
        week_start: int | None,
        track_turn: Tracker,
        begin_turn: Callable[[], Callable[[], None]] = nothing_to_begin,
    ) -> None:
        self._authenticate = authenticate
        self._admission = admission
        self._accounting = accounting
        self._objects = objects
        self.user = user
        self.reads_on = False
        self._path = path
        self._track_turn = track_turn
        self._begin_turn = begin_turn
        self._request_id = request_id
        self._week_start = week_start

    def admit(self, held: HeldMessage, session: WebSocketSession[WebSocketTurn]) -> WebSocketTurn | None:
        """Read a message and admit the turn that it requests, if any. This may block for a while.

        :return: a turn that counts as in progress until :meth:`record`, or ``None`` if the message requests none.
        :raises OcmError: the message is refused.
        """
        arrived = time.monotonic()
        message = held.read(find_references=self._objects.find_references)
        earlier = session.turn_of(message.response_id) if message.response_id is not None else None
        if message.purpose == "control":
            if message.response_id is not None and earlier is None and not self._objects.had(message.response_id):
                raise MessageRejected(_NO_SUCH_RESPONSE)
            return None
        user = self._authenticate()
        self.reads_on = bool(user.limits)
        if message.purpose == "input":
            if earlier is None:
                raise MessageRejected(_NO_SUCH_RESPONSE)
            self._objects.require(user, message, session)
            return None
        if session.open_turns >= MAX_OPEN_TURNS:
            raise TooManyConcurrent(
                f"This WebSocket has {MAX_OPEN_TURNS} turns in progress, the most allowed. Wait until one has ended.",
                retry_after_seconds=CONCURRENCY_RETRY_SECONDS,
            )
        # A steer asks for a response with the settings of an earlier one, in whose slot it runs.
        is_steer = message.purpose == "steer"
        facts = message.facts if not is_steer else RequestFacts() if earlier is None else earlier.request.facts
        with ExitStack() as undo:
            if not is_steer:
                undo.callback(self._begin_turn())
            undo.callback(self._admission.admit(user, facts.model, input_tokens=message.input_tokens, takes_slot=False))
            self._objects.require(user, message, session)
            slot = earlier.slot if is_steer and earlier is not None and earlier.slot.share() else self._slot(user)
            release = undo.pop_all().close
        input_tokens = message.input_tokens + self._continued_tokens(user, message, earlier)
        return self._turn(facts, arrived, release, slot, message, input_tokens=input_tokens, reads_on=bool(user.limits))

    def _continued_tokens(self, user: User, message: ClientMessage, earlier: WebSocketTurn | None) -> int:
        """Return an estimate of the input that upstream adds from an earlier response."""
        if earlier is None:
            return self._accounting.continued_tokens(user.name, message.facts)
        usage = None if earlier.turn is None else earlier.turn.usage
        return earlier.request.input_tokens if usage is None else usage.input_tokens + usage.output_tokens

    def _slot(self, user: User) -> SharedSlot:
        return SharedSlot(self._admission.take_slot(user))

    def adopt(self, model: str | None) -> WebSocketTurn:
        """Return a turn for a response that no message has asked for. It counts, but nothing is reserved for it."""
        slot = SharedSlot(nothing_to_release)
        return self._turn(RequestFacts(model), time.monotonic(), nothing_to_release, slot, None)

    def begin(self, event: TurnBegan[WebSocketTurn], on_claimed: Callable[[], None]) -> bool:
        """Note that upstream has created a response, and record its owner without waiting, if it is stored.

        :param on_claimed: called once from another thread, when the owner is recorded.
        :return: whether there is an owner to wait for.
        """
        event.turn.begin(time.monotonic())
        return self._objects.claim_async(event.response, event.turn.id, lambda _place: on_claimed())

    def note(self, event: TurnDropped[WebSocketTurn] | LimitsReceived) -> None:
        """Note an event that need not be recorded before more is sent to the client."""
        if isinstance(event, TurnDropped):
            event.turn.release()
        else:
            if event.limits.week_start is not None:
                self._week_start = event.limits.week_start
            self._accounting.note_rate_limits(event.limits, self._objects.credential)

    def settle(self, items: Iterable[bytes | Event[WebSocketTurn]], *, was_left: bool) -> None:
        """Note and record events, without waiting, that no client is left for.

        :param was_left: whether it was the client who ended the WebSocket.
        """
        for item in items:
            if isinstance(item, TurnEnded):
                item.turn.was_left = was_left
                self.record(item, _ignore)
            elif isinstance(item, TurnBegan):
                self.begin(item, _ignore)
            elif not isinstance(item, bytes):
                self.note(item)

    def record(self, end: TurnEnded[WebSocketTurn], on_recorded: Callable[[], None]) -> bool:
        """Record a turn and release it, without waiting.

        :param on_recorded: called once from another thread, when the record is safe.
        :return: whether there is a record to wait for. Upstream does not bill a prewarm whose usage it does not report.
        """
        turn = end.turn
        self._objects.note(end.outcome)
        turn.end(time.monotonic(), end.meter)
        if turn.is_prewarm and end.outcome.usage is None:
            turn.release()
            return False

        def recorded(_place: Durability) -> None:
            turn.release()
            if not self._objects.claim_async(end.outcome.body, turn.id, lambda _place: on_recorded()):
                on_recorded()

        turn.status = end.http_status
        if turn.week_start is None:
            turn.week_start = self._week_start
        self._accounting.record_async(turn, end.outcome, recorded)
        if turn.turn is not None:
            counters.count_turn(turn.turn)
        return True

    def _turn(
        self,
        facts: RequestFacts,
        arrived: float,
        release: Callable[[], None],
        slot: SharedSlot,
        message: ClientMessage | None,
        *,
        input_tokens: int = 0,
        reads_on: bool = False,
    ) -> WebSocketTurn:
        started_at = time.time() - (time.monotonic() - arrived)
        release = _once(release, slot.release)
        request = TurnRequest(
            user=self.user,
            endpoint=ENDPOINT,
            facts=facts,
            started_at=started_at,
            started=arrived,
            request_id=self._request_id,
            release=release,
            input_tokens=input_tokens,
            reads_on=reads_on,
            credential=self._objects.credential,
        )
        on_end = self._track_turn(TrackedTurn(self.user, self._path, facts.model or "", arrived))
        return WebSocketTurn(request, slot, on_end, week_start=self._week_start, message=message)


def _ignore() -> None:
    """Do nothing: the client has been disconnected."""


def _once(*functions: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls others, the first time only."""
    remaining = list(functions)

    def call() -> None:
        # Unlike a test for emptiness, this is safe if two threads call it.
        with contextlib.suppress(IndexError):
            while True:
                remaining.pop()()

    return call
