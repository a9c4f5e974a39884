"""The state of one WebSocket through the proxy: the turns that are open, and what to send next. Pure; no I/O.

The relay's tunnel moves the octets as the session says; ``docs/websocket.md`` shows the order of calls. Not
thread-safe: one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from ocm_wsgi.errors import CredentialRejected, OcmError
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.estimate import OutputMeter
from ocm_wsgi.protocol.responses.outcome import TERMINAL_TYPES, event_outcome, large_event, parse_json
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.event_members import lane_of, object_of, status_of, text_fields
from ocm_wsgi.protocol.websocket.frames import GOING_AWAY, POLICY_VIOLATION, server_close
from ocm_wsgi.protocol.websocket.message_gate import MESSAGE_LIMIT_BYTES, HeldMessage, MessageGate, Violation
from ocm_wsgi.protocol.websocket.message_observer import CREATED_TYPE, STEER_TYPES, Closing, Message, MessageObserver
from ocm_wsgi.protocol.websocket.open_turns import OpenTurn, OpenTurns
from ocm_wsgi.protocol.websocket.pool_limits import RATE_LIMITS_TYPE
from ocm_wsgi.protocol.websocket.refusals import refusal_message

T = TypeVar("T")

# Codes of ``error`` messages that end a turn for Codex even without a status.
_ENDING_CODES = frozenset({"websocket_connection_limit_reached", "previous_response_not_found"})
_UNAUTHORIZED = 401
_TOO_MANY = 429


@dataclass(frozen=True)
class TurnBegan(Generic[T]):
    """Upstream has created the response of a turn. Store its owner before sending the message that names it.

    :ivar response: the response as it was created.
    """

    turn: T
    response: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class TurnEnded(Generic[T]):
    """A turn has ended. Store its record before sending anything that follows to the client.

    :ivar http_status: 200, or the status in an ``error`` message.
    :ivar meter: of the output, if the usage is unknown.
    """

    turn: T
    outcome: Outcome
    http_status: int = 200
    meter: OutputMeter | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TurnDropped(Generic[T]):
    """A turn will have no response of its own: release it, and record nothing."""

    turn: T


@dataclass(frozen=True)
class LimitsReceived:
    """Upstream reported the use of the subscription's windows."""

    limits: RateLimits


#: What a message of upstream means for the turns.
Event: TypeAlias = TurnBegan[T] | TurnEnded[T] | TurnDropped[T] | LimitsReceived


def _rejected(_code: str | None) -> OcmError:
    return CredentialRejected("OpenAI does not accept the credential of this service.")


Limited = Callable[[Sequence[tuple[str, str]], Mapping[str, Any]], "OcmError | None"]


class WebSocketSession(Generic[T]):
    """One WebSocket. ``T`` is the tunnel's type for a turn.

    :param deflate: the negotiated compression, or ``None``.
    :param adopt: returns a turn for a response that no message has asked for, given its model or ``None``.
    :param unauthorized: returns what the client gets in place of an error with status 401, given the error's code or
        ``None``: Codex would sign in again itself. The session ends with it.
    :param limited: returns what the client gets in place of an error with status 429, given the fields of its response
        and the error, or ``None`` for the error itself. The session ends with anything else.
    :param shown_limits: returns the frame, if any, that the client gets in place of a message about rate limits. Only
        without compression: the client's decompressor needs all messages of a compressed WebSocket.
    :param limit: the longest message of a client, in octets as received.
    :ivar close_code: of upstream's Close frame, once it was received.
    :ivar has_data_to_send: whether frames were still held back at the last call of ``data_to_send``.
    """

    def __init__(
        self,
        deflate: DeflateParameters | None,
        adopt: Callable[[str | None], T],
        *,
        unauthorized: Callable[[str | None], OcmError] = _rejected,
        limited: Limited | None = None,
        shown_limits: Callable[[bytes], bytes] | None = None,
        limit: int = MESSAGE_LIMIT_BYTES,
    ) -> None:
        self.close_code: int | None = None
        self.has_data_to_send = False
        self._gate = MessageGate(deflate, limit=limit)
        self._turns = OpenTurns(adopt)
        self._is_compressed = deflate is not None
        self._observer = MessageObserver(deflate, partial(self._turns.feed, is_readable=True))
        self._unauthorized = unauthorized
        self._limited = limited
        self._shown_limits = shown_limits
        self._replacement: bytes | None = None
        self._is_cut_off = False
        self._refusals = b""
        self._pending_close: bytes | None = None
        self._is_closing_now = False
        self._should_close = False

    @property
    def has_open_turn(self) -> bool:
        """Whether any turn is in progress."""
        return len(self._turns) > 0

    @property
    def open_turns(self) -> int:
        """How many turns are in progress. Any thread may ask."""
        return len(self._turns)

    @property
    def held_bytes(self) -> int:
        """How much memory the client's unfinished and undecided messages take, in octets."""
        return self._gate.held_bytes

    @property
    def has_unfinished_message(self) -> bool:
        """Whether a message of the client has begun and is not complete."""
        return self._gate.held is None and self._gate.held_bytes > 0

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

    def turn_of(self, response_id: str) -> T | None:
        """Return the turn of a response that is in progress or has ended lately. Any thread may call this."""
        open_turn = self._turns.of_response(response_id)
        return None if open_turn is None else open_turn.turn

    def from_client(self, data: bytes) -> list[bytes | HeldMessage]:
        """Return what to send upstream now, in order. A held message, if any, is the last item.

        Pause reading from the client until ``forward`` or ``refuse``.
        """
        return self._gate.feed(data)

    def forward(self, turn: T | None) -> list[bytes | HeldMessage]:
        """Admit the held message. Return what to send upstream now.

        :param turn: the turn that it opens; ``None`` if it asks for none.
        """
        held = self._gate.held
        if turn is not None and held is not None and held.message is not None:
            self._turns.open(turn, held.message)
        return self._gate.forward()

    def refuse(self, error: OcmError) -> list[bytes | HeldMessage]:
        """Drop the held message, and queue the error for ``data_to_send``. Return what to send upstream now."""
        held = self._gate.held
        message = None if held is None else held.message
        self._refusals += refusal_message(error, None if message is None else message.stream_id)
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

    def from_server(self, data: bytes) -> list[bytes | Event[T]]:
        """Return what to send to the client, which is all of ``data``, and the events within it, in order.

        The exceptions are errors for which the client gets another one, and nothing after it, and messages about rate
        limits, as ``unauthorized``, ``limited`` and ``shown_limits`` decide.
        """
        if self._is_cut_off:
            return []
        if not self._is_compressed or self._observer.failure is not None:
            self._turns.feed(data, is_readable=not self._is_compressed)
        messages = self._observer.feed(data)
        if not messages:
            return [data]
        items: list[bytes | Event[T]] = []
        sent = 0
        for message in messages:
            if isinstance(message, Closing):
                self.close_code = message.code
                continue
            for event in self._events(message):
                if isinstance(event, (TurnBegan, TurnEnded)) and message.start > sent:
                    items.append(data[sent : message.start])
                    sent = message.start
                items.append(event)
            if self._replacement is not None:
                return [*items, data[sent : message.start], self._cut_off(message, self._replacement)]
            # One that began in an earlier read has passed in part already.
            if self._shown_limits is not None and message.type == RATE_LIMITS_TYPE and message.is_whole:
                items += [data[sent : message.start], self._shown_limits(bytes(message.buffer.octets))]
                sent = message.stop
        items.append(data[sent:])
        return items

    def _cut_off(self, message: Message, replacement: bytes) -> bytes:
        """Let nothing more of upstream pass from this message on, and return what the client gets instead."""
        self._is_cut_off = True
        if not message.is_whole:
            # The client has its beginning already; without its end it reads as a broken connection.
            self._should_close = True
            return b""
        self.close_now(GOING_AWAY, "")
        return replacement

    def end(self) -> list[TurnEnded[T]]:
        """End the session because either connection has ended. Return the turns that were in progress, as ended."""
        return [
            TurnEnded(open_turn.turn, open_turn.error or Outcome("cut"), meter=open_turn.meter)
            for open_turn in self._turns.close_all()
        ]

    def _events(self, message: Message) -> list[Event[T]]:
        buffer = message.buffer
        event = parse_json(buffer.octets) if buffer.is_quick_to_parse else large_event(buffer)
        type_ = event.get("type") if isinstance(event, dict) else None
        if not isinstance(type_, str):
            return []
        if type_ == "error":
            return self._error(event)
        if type_ == CREATED_TYPE:
            return self._created(event)
        if type_ in STEER_TYPES:
            return self._steer(type_, event)
        if type_ in TERMINAL_TYPES:
            return self._terminal(event)
        limits = rate_limits.from_message(bytes(message.buffer.octets)) if type_ == "codex.rate_limits" else None
        return [] if limits is None else [LimitsReceived(limits)]

    def _created(self, event: Mapping[str, Any]) -> list[Event[T]]:
        response = object_of(event, "response")
        response_id = label(response.get("id"))
        if response_id is None:
            return []
        began, *absorbed = self._turns.created(
            response_id,
            parent=label(response.get("previous_response_id")),
            lane=lane_of(event),
            model=label(response.get("model")),
        )
        return [TurnBegan(began.turn, response), *_dropped(absorbed)]

    def _steer(self, type_: str, event: Mapping[str, Any]) -> list[Event[T]]:
        steer = object_of(event, "steer")
        steer_id, parent = label(steer.get("id")), label(steer.get("previous_response_id"))
        if parent is None:
            return []
        if type_ != "response.steer.accepted":
            return _dropped(self._turns.steer_ended(steer_id, parent))
        if steer_id is not None:
            self._turns.steer_accepted(steer_id, parent)
        return []

    def _error(self, event: Mapping[str, Any]) -> list[Event[T]]:
        """Return the events of an error. With a status it ends the turn, as over HTTP; Codex ignores one without."""
        outcome = event_outcome(event)
        assert outcome is not None
        headers = event.get("headers")
        fields = text_fields(headers) if isinstance(headers, dict) else []
        limits = rate_limits.from_fields(fields) if fields else None
        events: list[Event[T]] = [] if limits is None else [LimitsReceived(limits)]
        status = status_of(event)
        if status == _UNAUTHORIZED:
            self._replacement = refusal_message(self._unauthorized(outcome.error_code), lane_of(event))
        if status == _TOO_MANY and self._limited is not None and self.open_turns == 1:
            refusal = self._limited(fields, event)
            if refusal is not None:
                self._replacement = refusal_message(refusal, lane_of(event))
        failed = self._turns.failed(lane=lane_of(event), is_of_stream="sequence_number" in event)
        if failed is None:
            return events
        if status is None and outcome.error_code not in _ENDING_CODES:
            failed.error = outcome
            return events
        self._turns.close(failed)
        return [*events, TurnEnded(failed.turn, outcome, status or 400, failed.meter)]

    def _terminal(self, event: Mapping[str, Any]) -> list[Event[T]]:
        outcome = event_outcome(event)
        if outcome is None:
            return []
        return self._ended(outcome, response_id=label(object_of(event, "response").get("id")), lane=lane_of(event))

    def _ended(self, outcome: Outcome, *, response_id: str | None, lane: str | None) -> list[Event[T]]:
        ended = self._turns.ended(response_id, lane=lane, model=outcome.model, is_counted=outcome.usage is not None)
        if not ended:
            return []
        return [TurnEnded(ended[0].turn, outcome, meter=ended[0].meter), *_dropped(ended[1:])]


def _dropped(turns: Sequence[OpenTurn[T]]) -> list[Event[T]]:
    return [TurnDropped(turn.turn) for turn in turns]
