"""What a test or a demo asks the simulator to do with its next request: plans, gates, and the queue of them.

Knows no socket. A plan only says; ``sending.py``, ``receiving.py`` and the endpoints obey.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TEXT = "Hello! I am a simulated model, and I am happy to help. What shall we build today?"

#: Tokens of a turn whose plan names none. Cached tokens are part of input, reasoning tokens part of output.
DEFAULT_USAGE: Mapping[str, int] = {
    "input_tokens": 1234,
    "cached_tokens": 1024,
    "output_tokens": 56,
    "reasoning_tokens": 16,
}


class PlanError(ValueError):
    """A plan that came as JSON cannot be understood. The message names the field."""


class Gate:
    """Holds a response at one point until the test lets it go.

    ``gate.after(1)`` holds after the first event (0: after the head). The named points of :meth:`at` lie outside the
    response. A gate that was released stays open. Thread-safe.
    """

    def __init__(self) -> None:
        self.point: int | str = 0
        #: Set when a response stands at the gate; wait on it.
        self.reached = threading.Event()
        self._released = False
        self._wakers: set[threading.Event] = set()
        self._lock = threading.Lock()

    def after(self, event: int) -> Gate:
        """Hold after so many events of the body were sent; return the gate."""
        return self.at(event)

    def at(self, point: int | str) -> Gate:
        """Hold at a named point; return the gate.

        ``"body"``: before the request's body is read. ``"status"``: before the status line. ``"rotation"``: before a
        refresh token is used up. ``"rotated"``: after that, before the answer.
        """
        self.point = point
        return self

    @property
    def released(self) -> bool:
        return self._released

    @property
    def standing(self) -> int:
        """How many responses stand at the gate."""
        return len(self._wakers)

    def release(self) -> None:
        """Open the gate for good and wake whoever stands at it."""
        with self._lock:
            self._released = True
            wakers = tuple(self._wakers)
        for waker in wakers:
            waker.set()

    def join(self, waker: threading.Event) -> None:
        """Have ``waker`` set at the release, and tell the test that someone is here."""
        with self._lock:
            self._wakers.add(waker)
        self.reached.set()

    def leave(self, waker: threading.Event) -> None:
        with self._lock:
            self._wakers.discard(waker)


@dataclass(frozen=True)
class Plan:
    """How one request is answered. Every field is optional; the default is a good answer.

    Events are counted from 1, all kinds of them; point 0 is after the response's head.

    :ivar status: the response's status. From 300 on an error body goes with it: ``json``, ``body``, or one made of
        ``error``. On a WebSocket: the ``status`` of an ``error`` message.
    :ivar fields: further response fields, as pairs; names may repeat.
    :ivar json: the whole body.
    :ivar body: the whole body, raw. As JSON: base64.
    :ivar text: what the model says.
    :ivar output: output items instead of one message with ``text``.
    :ivar events: in how many deltas the text is said; ``None``: one a word. More than there are words repeat it.
    :ivar event_bytes: padding of each delta; a raw ``body`` is cut into pieces of this size.
    :ivar interval: seconds between two events.
    :ivar usage: token counts with the keys of :data:`DEFAULT_USAGE`; ``None``: the response says none.
    :ivar model: what the response calls the model; ``None``: as the request does.
    :ivar service_tier: as the response says; ``None``: the request's, where ``auto`` becomes ``default``.
    :ivar terminal: how a stream ends: ``completed``, ``incomplete``, ``failed``, ``error``; ``None``: it just ends.
    :ivar error: code and message for ``failed``, ``error`` and error statuses.
    :ivar error_type: the error's ``type``.
    :ivar framing: ``chunked``, ``length`` or ``close``.
    :ivar chunking: ``event`` (one chunk an event), ``byte``, ``whole``, or so many bytes a chunk.
    :ivar encoding: ``gzip``, ``deflate`` or ``zstd``; flushed after each event.
    :ivar gate: where to wait for the test; see :class:`Gate`.
    :ivar rate_limits: as in :data:`~ocm_wsgi.simulator.ratelimits.DEFAULT`; ``None``: the simulator's own.
    :ivar silence_before_status: nothing is answered until the client goes away.
    :ivar silence_after: after this event nothing more comes until the client goes away.
    :ivar cut_after: after this event the connection is closed (a WebSocket without a Close frame).
    :ivar reset_after: after this event the connection is reset.
    :ivar cut_at: the connection is closed at a named point of :meth:`Gate.at`.
    :ivar early_hints: 102 and 103 come before the response.
    :ivar status_line_garbage: what comes is not HTTP.
    :ivar endless_field: length of one response field's value, in bytes.
    :ivar no_content_type: leave ``Content-Type`` out.
    :ivar set_cookie: values of ``Set-Cookie`` fields.
    :ivar wrong_length: added to the true ``Content-Length``.
    :ivar bad_chunk: after this event comes a chunk size that is none.
    :ivar extra_response: sent after the response's end, on the same connection.
    :ivar close_idle: the connection is closed right after the response, without a word of it in the response.
    :ivar slow_read: seconds between two reads of 64 KiB of the request's body.
    :ivar refuse_body: answer without reading the body, then close.
    :ivar read_only_n_bytes: read so much of the body, then as ``refuse_body``.
    :ivar upgrade: the plan is for the opening handshake of a WebSocket and not for a turn on it.
    :ivar close_code: on a WebSocket ``cut_after`` sends a Close frame with this code.
    :ivar close_reason: its reason.
    :ivar omit: members left out of a token response.
    :ivar account: another account in the new tokens.
    """

    status: int | None = None
    fields: Sequence[tuple[str, str]] = ()
    json: Any = None
    body: bytes | None = None
    text: str = DEFAULT_TEXT
    output: Sequence[Mapping[str, Any]] | None = None
    events: int | None = None
    event_bytes: int = 0
    interval: float = 0.0
    usage: Mapping[str, Any] | None = field(default_factory=lambda: DEFAULT_USAGE)
    model: str | None = None
    service_tier: str | None = None
    terminal: str | None = "completed"
    error: tuple[str, str] | None = None
    error_type: str = "server_error"
    framing: str | None = None
    chunking: str | int = "event"
    encoding: str | None = None
    gate: Gate | None = None
    rate_limits: Mapping[str, Any] | None = None
    silence_before_status: bool = False
    silence_after: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    cut_at: str | None = None
    early_hints: bool = False
    status_line_garbage: bool = False
    endless_field: int = 0
    no_content_type: bool = False
    set_cookie: Sequence[str] = ()
    wrong_length: int = 0
    bad_chunk: int | None = None
    extra_response: bytes = b""
    close_idle: bool = False
    slow_read: float = 0.0
    refuse_body: bool = False
    read_only_n_bytes: int | None = None
    upgrade: bool = False
    close_code: int | None = None
    close_reason: str = ""
    omit: Sequence[str] = ()
    account: str | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan from a JSON object of its fields; bytes stand as base64, ``gate`` cannot stand there.

        :raises PlanError: not a JSON object, an unknown field, or bad base64.
        """
        try:
            members = json.loads(text)
        except ValueError as exc:
            raise PlanError("a plan must be a JSON object") from exc
        return cls.from_members(members)

    @classmethod
    def from_members(cls, members: Any) -> Plan:
        """As :meth:`from_json`, from the object that was read already."""
        if not isinstance(members, dict):
            raise PlanError("a plan must be a JSON object")
        unknown = sorted(members.keys() - _JSON_TYPES.keys())
        if unknown:
            raise PlanError(f"a plan has no field {', '.join(unknown)}")
        for name, value in members.items():
            if not isinstance(value, _JSON_TYPES[name]):
                raise PlanError(f"{name} cannot be {json.dumps(value)[:80]}")
        _check_fields(members.get("fields", ()))
        values = dict(members)
        for name in ("body", "extra_response"):
            if name in values:
                values[name] = _bytes_of(name, values[name])
        return cls(**values)


def _json_types(annotation: str) -> tuple[type, ...]:
    """Return the types that a field of this annotation may have in JSON."""
    known: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "str": (str,),
        "bytes": (str,),
        "None": (type(None),),
        "Any": (object,),
    }
    names = annotation.split("[")[0].split(" | ") + ["None"] * annotation.endswith("| None")
    return tuple(each for name in names for each in known.get(name, (list, dict)))


_JSON_TYPES = {each.name: _json_types(str(each.type)) for each in dataclasses.fields(Plan) if each.name != "gate"}


def _check_fields(pairs: Any) -> None:
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise PlanError("fields must be a list of pairs of strings")


def _bytes_of(name: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise PlanError(f"{name} must be base64") from exc


class PlanQueue:
    """Plans that wait for their request, first come, first served. Thread-safe."""

    def __init__(self) -> None:
        #: What a request of the API gets for which no plan waits.
        self.default = Plan()
        self._waiting: list[tuple[str | None, Plan]] = []
        self._lock = threading.Lock()

    def add(self, plan: Plan, *, path: str | None, times: int) -> None:
        """Queue a plan ``times`` times for targets that begin with ``path``; ``None``: any endpoint of the API."""
        with self._lock:
            self._waiting += [(path, plan)] * times

    def take(self, target: str, *, upgrade: bool = False, api: bool = True) -> Plan:
        """Take the first plan for this target out of the queue; where none waits, return the default.

        :param upgrade: take a plan for an opening handshake, or one for everything else.
        :param api: whether a plan without a path is for this target too.
        """
        with self._lock:
            for index, (path, plan) in enumerate(self._waiting):
                matches = api if path is None else target.startswith(path)
                if matches and plan.upgrade == upgrade:
                    del self._waiting[index]
                    return plan
        return self.default if api else Plan()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)
