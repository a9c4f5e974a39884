"""What happens on a WebSocket through the proxy: turns that open and end, limits that are told. Pure; no I/O.

The tunnel moves the octets and does what it is told here; ``docs/websocket.md`` shows how the calls follow upon one
another. For one thread at a time.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.outcome import TERMINAL_TYPES, event_outcome, parse_json
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.frames import GOING_AWAY, POLICY_VIOLATION, server_close, server_text
from ocm_wsgi.protocol.websocket.message_gate import MESSAGE_LIMIT_BYTES, HeldMessage, MessageGate, Violation
from ocm_wsgi.protocol.websocket.message_observer import Closing, Message, MessageObserver

T = TypeVar("T")

#: Codes of ``error`` messages that end a turn for Codex though they may come without a status.
_ENDING_CODES = frozenset({"websocket_connection_limit_reached", "previous_response_not_found"})
_STATUSES = range(400, 600)


@dataclass(frozen=True)
class TurnEnded(Generic[T]):
    """A turn has ended. Its record must be safe before anything that follows goes to the client.

    :ivar turn: as ``forward`` was told. ``None`` when upstream ended one that no message had asked for.
    :ivar http_status: 200, or the status that an ``error`` message gives.
    """

    turn: T | None
    outcome: Outcome
    http_status: int = 200


@dataclass(frozen=True)
class LimitsReceived:
    """Upstream said how full the subscription's windows are."""

    limits: RateLimits


@dataclass
class _OpenTurn(Generic[T]):
    """A turn under way, and an error that it may or may not have ended with."""

    turn: T
    error: Outcome | None = None


class WebSocketSession(Generic[T]):
    """One WebSocket. ``T`` is whatever the tunnel knows a turn by.

    :param deflate: what was negotiated, or ``None``.
    :param limit: the longest message of a client, in octets as they come.
    :ivar close_code: of upstream's Close frame, once it was seen.
    :ivar has_data_to_send: whether ``own`` will have something to give, later than when it was last asked.
    """

    def __init__(self, deflate: DeflateParameters | None, *, limit: int = MESSAGE_LIMIT_BYTES) -> None:
        self.close_code: int | None = None
        self.has_data_to_send = False
        self._gate = MessageGate(deflate, limit=limit)
        self._observer = MessageObserver(deflate)
        self._turns: deque[_OpenTurn[T]] = deque()
        self._refusals = b""
        self._pending_close: bytes | None = None
        self._is_hurried = False
        self._should_close = False

    @property
    def has_open_turn(self) -> bool:
        return bool(self._turns)

    @property
    def observation_error(self) -> str | None:
        """Why upstream's messages are not understood any more, or ``None``. The tunnel goes on all the same."""
        return self._observer.failure

    @property
    def violation(self) -> Violation | None:
        """What the client did that nothing more of it goes upstream for, or ``None``."""
        return self._gate.violation

    @property
    def should_close(self) -> bool:
        """Whether both connections are to be closed once what ``own`` gave is sent."""
        return self._should_close

    def from_client(self, data: bytes) -> list[bytes | HeldMessage]:
        """Return what goes upstream now, in order. A message, if any, comes last, and waits for a decision.

        Until ``forward`` or ``refuse`` the client should not be read from.
        """
        return self._gate.feed(data)

    def forward(self, turn: T | None) -> list[bytes | HeldMessage]:
        """The message goes on. Return what goes upstream now.

        :param turn: that it opens; ``None`` when it asks for none.
        """
        if turn is not None:
            self._turns.append(_OpenTurn(turn))
        return self._gate.forward()

    def refuse(self, error: OcmError) -> list[bytes | HeldMessage]:
        """The message does not go on; ``own`` gives what the client is told. Return what goes upstream now."""
        self._refusals += refusal_message(error)
        passing = self._gate.drop()
        if self._gate.is_closed:
            # What the client says next could not be decompressed without the message that was left out.
            self.close_when_idle(POLICY_VIOLATION, "refused")
        return passing

    def close_when_idle(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """End the session as soon as no turn is open: ``own`` gives the Close frame then.

        Codex takes up what it was saying on another connection.
        """
        if self._pending_close is None:
            self._pending_close = server_close(code, reason)

    def close_now(self, code: int, reason: str) -> None:
        """End the session now, in the midst of a turn: ``own`` gives the Close frame if one can stand here."""
        self._pending_close = server_close(code, reason)
        self._is_hurried = True

    def data_to_send(self) -> bytes:
        """Return what the proxy itself has to say to the client now.

        To be asked after each other call, and sent behind what ``from_server`` returned. Where upstream is in the
        midst of a message it comes later.
        """
        violation = self._gate.violation
        if violation is not None:
            self.close_now(violation.close_code, violation.reason)
        close_frame = b"" if self._turns and not self._is_hurried else self._pending_close or b""
        said = b""
        can_speak = self._observer.is_between_messages and self.close_code is None and not self._should_close
        if can_speak:
            said, self._refusals = self._refusals + close_frame, b""
        if close_frame and (
            can_speak or self._is_hurried or self.close_code is not None or self.observation_error is not None
        ):
            self._should_close = True
        self.has_data_to_send = bool(self._refusals or self._pending_close)
        return said

    def from_server(self, data: bytes) -> list[bytes | TurnEnded[T] | LimitsReceived]:
        """Return what goes to the client, all of ``data``, and what happens in between, in order."""
        messages = self._observer.feed(data)
        if not messages:
            return [data]
        happened: list[bytes | TurnEnded[T] | LimitsReceived] = []
        told = 0
        for message in messages:
            if isinstance(message, Closing):
                self.close_code = message.code
                continue
            for event in self._events(message):
                if isinstance(event, TurnEnded) and message.start > told:
                    happened.append(data[told : message.start])
                    told = message.start
                happened.append(event)
        happened.append(data[told:])
        return happened

    def end(self) -> list[TurnEnded[T]]:
        """The connection has ended, on whichever side: so have the turns that were under way."""
        ended = [TurnEnded(open_turn.turn, open_turn.error or Outcome("cut")) for open_turn in self._turns]
        self._turns.clear()
        return ended

    def _events(self, message: Message) -> list[TurnEnded[T] | LimitsReceived]:
        if message.kept.overflowed:
            return self._too_large(message)
        event = parse_json(message.kept.octets)
        type_ = event.get("type") if isinstance(event, dict) else None
        if type_ == "error":
            return self._error(event)
        if isinstance(type_, str) and type_ in TERMINAL_TYPES:
            outcome = event_outcome(event)
            return [] if outcome is None else self._ended(outcome)
        limits = rate_limits.from_message(bytes(message.kept.octets)) if type_ == "codex.rate_limits" else None
        return [] if limits is None else [LimitsReceived(limits)]

    def _too_large(self, message: Message) -> list[TurnEnded[T] | LimitsReceived]:
        """What of a message can be told by its first words and its end. Codex itself takes no such message."""
        status = TERMINAL_TYPES.get(message.type)
        return [] if status is None else self._ended(Outcome(status, usage=message.kept.usage_in_tail()))

    def _error(self, event: Mapping[str, Any]) -> list[TurnEnded[T] | LimitsReceived]:
        """An error that carries a status ends the turn, as it would over HTTP; Codex ignores one without."""
        outcome = event_outcome(event)
        assert outcome is not None
        fields = event.get("headers")
        limits = rate_limits.from_fields(_text_fields(fields)) if isinstance(fields, dict) else None
        told: list[TurnEnded[T] | LimitsReceived] = [] if limits is None else [LimitsReceived(limits)]
        status = _status(event)
        if not self._turns:
            return told
        if status is None and outcome.error_code not in _ENDING_CODES:
            self._turns[0].error = outcome
            return told
        return [*told, TurnEnded(self._turns.popleft().turn, outcome, status or 400)]

    def _ended(self, outcome: Outcome) -> list[TurnEnded[T] | LimitsReceived]:
        """End the turn that has been open for longest: upstream answers in order."""
        if self._turns:
            return [TurnEnded(self._turns.popleft().turn, outcome)]
        return [] if outcome.usage is None else [TurnEnded(None, outcome)]


def refusal_message(error: OcmError) -> bytes:
    """A whole frame that tells the client of one of our errors, as OpenAI tells of its own on a WebSocket.

    Codex takes it for an HTTP response with this status and these fields.
    """
    fields = dict(error.response_fields)
    if error.retry_after_seconds is not None:
        fields["retry-after"] = str(error.retry_after_seconds)
    content = {"type": error.error_type, "code": error.code, "message": error.message, **error.members}
    message = {"type": "error", "status": error.status, "error": content, "headers": fields}
    return server_text(json.dumps(message, separators=(",", ":")).encode())


def _status(event: Mapping[str, Any]) -> int | None:
    for name in ("status", "status_code"):
        status = event.get(name)
        if isinstance(status, int) and status in _STATUSES:
            return status
    return None


def _text_fields(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in fields.items() if isinstance(value, (str, int, float))]
