"""The state of one WebSocket through the proxy: the turns that are open, and what to send next. Pure; no I/O.

The relay's tunnel moves the octets as the session says; ``docs/websocket.md`` shows the order of calls. Not
thread-safe: one thread at a time.
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

# Codes of ``error`` messages that end a turn for Codex even without a status.
_ENDING_CODES = frozenset({"websocket_connection_limit_reached", "previous_response_not_found"})
_STATUSES = range(400, 600)


@dataclass(frozen=True)
class TurnEnded(Generic[T]):
    """A turn has ended. Store its record before sending anything that follows to the client.

    :ivar turn: the turn passed to ``forward``; ``None`` if upstream ended one that no message had asked for.
    :ivar http_status: 200, or the status in an ``error`` message.
    """

    turn: T | None
    outcome: Outcome
    http_status: int = 200


@dataclass(frozen=True)
class LimitsReceived:
    """Upstream reported the use of the subscription's windows."""

    limits: RateLimits


@dataclass
class _OpenTurn(Generic[T]):
    """A turn in progress, and an error that may have ended it."""

    turn: T
    error: Outcome | None = None


class WebSocketSession(Generic[T]):
    """One WebSocket. ``T`` is the tunnel's type for a turn.

    :param deflate: the negotiated compression, or ``None``.
    :param limit: the longest message of a client, in octets as received.
    :ivar close_code: of upstream's Close frame, once it was received.
    :ivar has_data_to_send: whether frames were still held back at the last call of ``data_to_send``.
    """

    def __init__(self, deflate: DeflateParameters | None, *, limit: int = MESSAGE_LIMIT_BYTES) -> None:
        self.close_code: int | None = None
        self.has_data_to_send = False
        self._gate = MessageGate(deflate, limit=limit)
        self._observer = MessageObserver(deflate)
        self._turns: deque[_OpenTurn[T]] = deque()
        self._refusals = b""
        self._pending_close: bytes | None = None
        self._is_closing_now = False
        self._should_close = False

    @property
    def has_open_turn(self) -> bool:
        """Whether any turn is in progress."""
        return bool(self._turns)

    @property
    def observation_error(self) -> str | None:
        """Why upstream's messages can no longer be parsed, or ``None``. The tunnel continues to relay them."""
        return self._observer.failure

    @property
    def violation(self) -> Violation | None:
        """The client's violation after which nothing of it goes upstream, or ``None``."""
        return self._gate.violation

    @property
    def should_close(self) -> bool:
        """Whether to close both connections once everything from ``data_to_send`` is sent."""
        return self._should_close

    def from_client(self, data: bytes) -> list[bytes | HeldMessage]:
        """Return what to send upstream now, in order. A held message, if any, is the last item.

        Pause reading from the client until ``forward`` or ``refuse``.
        """
        return self._gate.feed(data)

    def forward(self, turn: T | None) -> list[bytes | HeldMessage]:
        """Admit the held message. Return what to send upstream now.

        :param turn: the turn that it opens; ``None`` if it asks for none.
        """
        if turn is not None:
            self._turns.append(_OpenTurn(turn))
        return self._gate.forward()

    def refuse(self, error: OcmError) -> list[bytes | HeldMessage]:
        """Drop the held message, and queue the error for ``data_to_send``. Return what to send upstream now."""
        self._refusals += refusal_message(error)
        sendable = self._gate.drop()
        if self._gate.is_closed:
            # Upstream could not decompress the client's next message without the dropped one.
            self.close_when_idle(POLICY_VIOLATION, "refused")
        return sendable

    def close_when_idle(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """Close the session as soon as no turn is open: ``data_to_send`` returns the Close frame then.

        Codex continues on another connection.
        """
        if self._pending_close is None:
            self._pending_close = server_close(code, reason)

    def close_now(self, code: int, reason: str) -> None:
        """Close the session now, even during a turn: ``data_to_send`` returns the Close frame if it can."""
        self._pending_close = server_close(code, reason)
        self._is_closing_now = True

    def data_to_send(self) -> bytes:
        """Return the frames that the proxy itself wants to send to the client.

        Call after every other method, and send the frames after what ``from_server`` returned. They are held back while
        upstream is in the middle of a message.
        """
        violation = self._gate.violation
        if violation is not None:
            self.close_now(violation.close_code, violation.reason)
        close_frame = b"" if self._turns and not self._is_closing_now else self._pending_close or b""
        frames = b""
        can_send = self._observer.is_between_messages and self.close_code is None and not self._should_close
        if can_send:
            frames, self._refusals = self._refusals + close_frame, b""
        if close_frame and (
            can_send or self._is_closing_now or self.close_code is not None or self.observation_error is not None
        ):
            self._should_close = True
        self.has_data_to_send = bool(self._refusals or self._pending_close)
        return frames

    def from_server(self, data: bytes) -> list[bytes | TurnEnded[T] | LimitsReceived]:
        """Return what to send to the client, which is all of ``data``, and the events within it, in order."""
        messages = self._observer.feed(data)
        if not messages:
            return [data]
        items: list[bytes | TurnEnded[T] | LimitsReceived] = []
        sent = 0
        for message in messages:
            if isinstance(message, Closing):
                self.close_code = message.code
                continue
            for event in self._events(message):
                if isinstance(event, TurnEnded) and message.start > sent:
                    items.append(data[sent : message.start])
                    sent = message.start
                items.append(event)
        items.append(data[sent:])
        return items

    def end(self) -> list[TurnEnded[T]]:
        """End the session because either connection has ended. Return the turns that were in progress, as ended."""
        ended = [TurnEnded(open_turn.turn, open_turn.error or Outcome("cut")) for open_turn in self._turns]
        self._turns.clear()
        return ended

    def _events(self, message: Message) -> list[TurnEnded[T] | LimitsReceived]:
        if message.buffer.overflowed:
            return self._too_large(message)
        event = parse_json(message.buffer.octets)
        type_ = event.get("type") if isinstance(event, dict) else None
        if type_ == "error":
            return self._error(event)
        if isinstance(type_, str) and type_ in TERMINAL_TYPES:
            outcome = event_outcome(event)
            return [] if outcome is None else self._ended(outcome)
        limits = rate_limits.from_message(bytes(message.buffer.octets)) if type_ == "codex.rate_limits" else None
        return [] if limits is None else [LimitsReceived(limits)]

    def _too_large(self, message: Message) -> list[TurnEnded[T] | LimitsReceived]:
        """Return the events in a message of which only the type and the tail are known."""
        # Codex itself accepts no message of this size.
        status = TERMINAL_TYPES.get(message.type)
        return [] if status is None else self._ended(Outcome(status, usage=message.buffer.usage_in_tail()))

    def _error(self, event: Mapping[str, Any]) -> list[TurnEnded[T] | LimitsReceived]:
        """Return the events of an error. With a status it ends the turn, as over HTTP; Codex ignores one without."""
        outcome = event_outcome(event)
        assert outcome is not None
        fields = event.get("headers")
        limits = rate_limits.from_fields(_text_fields(fields)) if isinstance(fields, dict) else None
        events: list[TurnEnded[T] | LimitsReceived] = [] if limits is None else [LimitsReceived(limits)]
        status = _status(event)
        if not self._turns:
            return events
        if status is None and outcome.error_code not in _ENDING_CODES:
            self._turns[0].error = outcome
            return events
        return [*events, TurnEnded(self._turns.popleft().turn, outcome, status or 400)]

    def _ended(self, outcome: Outcome) -> list[TurnEnded[T] | LimitsReceived]:
        """End the oldest open turn: upstream responds in order."""
        if self._turns:
            return [TurnEnded(self._turns.popleft().turn, outcome)]
        return [] if outcome.usage is None else [TurnEnded(None, outcome)]


def refusal_message(error: OcmError) -> bytes:
    """Return a frame with one of our errors, in the form that OpenAI uses for errors on a WebSocket.

    Codex treats it as an HTTP response with this status and these fields.
    """
    fields = dict(error.response_fields)
    if error.retry_after_seconds is not None:
        fields["retry-after"] = str(error.retry_after_seconds)
    message = {"type": "error", "status": error.status, "error": error.as_json(), "headers": fields}
    return server_text(json.dumps(message, separators=(",", ":")).encode())


def _status(event: Mapping[str, Any]) -> int | None:
    for name in ("status", "status_code"):
        status = event.get(name)
        if isinstance(status, int) and status in _STATUSES:
            return status
    return None


def _text_fields(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in fields.items() if isinstance(value, (str, int, float))]
