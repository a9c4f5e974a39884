"""Plans, which configure how the simulator handles a request, their gates and their queue.

Plans are data only; ``sending.py``, ``receiving.py`` and the endpoints apply them.
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

#: The usage of a turn whose plan has none. Cached tokens are part of the input, reasoning tokens of the output.
DEFAULT_USAGE: Mapping[str, int] = {
    "input_tokens": 1234,
    "cached_tokens": 1024,
    "output_tokens": 56,
    "reasoning_tokens": 16,
}


class PlanError(ValueError):
    """A plan in JSON is invalid. The message names the field."""


class Gate:
    """Blocks a response at one point until the test releases it.

    ``gate.after(1)`` blocks after the first event (0: after the head). The named points of :meth:`at` are outside the
    response. A released gate stays open. Thread-safe.
    """

    def __init__(self) -> None:
        self.point: int | str = 0
        #: Set when a response has reached the gate; tests wait on it.
        self.reached = threading.Event()
        self._released = False
        self._wakers: set[threading.Event] = set()
        self._lock = threading.Lock()

    def after(self, event: int) -> Gate:
        """Block after this number of events of the body; return the gate."""
        return self.at(event)

    def at(self, point: int | str) -> Gate:
        """Block at a named point; return the gate.

        ``"body"``: before the request's body is read. ``"status"``: before the status line. ``"rotation"``: before a
        refresh token is consumed. ``"rotated"``: after that, before the response.
        """
        self.point = point
        return self

    @property
    def released(self) -> bool:
        return self._released

    @property
    def blocked(self) -> int:
        """The number of responses blocked at the gate."""
        return len(self._wakers)

    def release(self) -> None:
        """Open the gate permanently and release everything blocked at it."""
        with self._lock:
            self._released = True
            wakers = tuple(self._wakers)
        for waker in wakers:
            waker.set()

    def join(self, waker: threading.Event) -> None:
        """Register ``waker`` to be set at the release, and signal that the gate was reached."""
        with self._lock:
            self._wakers.add(waker)
        self.reached.set()

    def leave(self, waker: threading.Event) -> None:
        with self._lock:
            self._wakers.discard(waker)


@dataclass(frozen=True)
class Plan:
    """How one request is handled. Every field is optional; by default the response is successful.

    All events are counted, from 1; point 0 is after the response's head.

    :ivar status: the response's status. From 300 on it comes with an error body: ``json``, ``body``, or one built
        from ``error``. On a WebSocket: the ``status`` of an ``error`` message.
    :ivar fields: further response fields, as pairs; names may repeat.
    :ivar json: the complete body.
    :ivar body: the complete body, raw. In JSON: base64.
    :ivar text: the model's text.
    :ivar output: output items in place of one message with ``text``.
    :ivar events: the number of text deltas; ``None`` for one per word. If there are too few words, they repeat.
    :ivar event_bytes: the padding of each delta; a raw ``body`` is split into pieces of this size.
    :ivar interval: seconds between events.
    :ivar usage: token counts with the keys of :data:`DEFAULT_USAGE`, or ``None`` for a response without usage.
    :ivar counts: report the tokens of the request and of the text, as counted by :mod:`~ocm_wsgi.simulator.tokens`,
        in place of ``usage``.
    :ivar model: the model in the response; by default the request's.
    :ivar service_tier: the tier in the response; by default the request's, where ``auto`` becomes ``default``.
    :ivar terminal: the stream's last event: ``completed``, ``incomplete``, ``failed``, ``error``, or ``None``.
    :ivar error: code and message for ``failed``, ``error`` and error statuses.
    :ivar error_type: the error's ``type``.
    :ivar framing: ``chunked``, ``length`` or ``close``.
    :ivar chunking: ``event`` (one chunk per event), ``byte``, ``whole``, or the number of bytes per chunk.
    :ivar encoding: ``gzip``, ``deflate`` or ``zstd``; flushed after each event.
    :ivar gate: where to wait for the test; see :class:`Gate`.
    :ivar rate_limits: in the format of :func:`ocm_wsgi.simulator.ratelimits.default`; by default the simulator's own.
    :ivar silence_before_status: send nothing until the client disconnects.
    :ivar silence_after: after this event, send nothing until the client disconnects.
    :ivar cut_after: after this event the connection is closed (a WebSocket without a Close frame).
    :ivar reset_after: after this event the connection is reset.
    :ivar cut_at: the connection is closed at a named point of :meth:`Gate.at`.
    :ivar early_hints: send 102 and 103 before the response.
    :ivar status_line_garbage: send something that is not HTTP.
    :ivar endless_field: the length of one response field's value, in bytes.
    :ivar no_content_type: omit ``Content-Type``.
    :ivar set_cookie: values of ``Set-Cookie`` fields.
    :ivar wrong_length: a number added to the true ``Content-Length``.
    :ivar bad_chunk: send an invalid chunk size after this event.
    :ivar extra_response: bytes sent after the response, on the same connection.
    :ivar close_idle: close the connection right after the response, without announcing this.
    :ivar slow_read: seconds between reads of 64 KiB of the request's body.
    :ivar refuse_body: respond without reading the body, then close.
    :ivar read_only_n_bytes: read this much of the body, then act as with ``refuse_body``.
    :ivar upgrade: the plan applies to the opening handshake of a WebSocket, not to a turn on it.
    :ivar close_code: the code of the Close frame that ``cut_after`` sends on a WebSocket.
    :ivar close_reason: the reason in that frame.
    :ivar omit: members omitted from a token response.
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
    counts: bool = False
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
        """Parse a plan from a JSON object of its fields. Bytes are in base64; ``gate`` is not supported.

        :raises PlanError: not a JSON object, an unknown field, or bad base64.
        """
        try:
            members = json.loads(text)
        except ValueError as exc:
            raise PlanError("a plan must be a JSON object") from exc
        return cls.from_members(members)

    @classmethod
    def from_members(cls, members: Any) -> Plan:
        """Like :meth:`from_json`, from a parsed object."""
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
    """Return the types that a field with this annotation may have in JSON."""
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
    """A queue of plans for future requests, first in, first out. Thread-safe."""

    def __init__(self) -> None:
        #: The plan of API requests for which none is queued.
        self.default = Plan()
        #: The same of one account's requests, in its place.
        self.defaults: dict[str, Plan] = {}
        self._waiting: list[tuple[str | None, str | None, Plan]] = []
        self._lock = threading.Lock()

    def add(self, plan: Plan, *, path: str | None, times: int, account: str | None = None) -> None:
        """Queue a plan ``times`` times for targets that begin with ``path``, or for any endpoint of the API.

        :param account: whose requests it is for; ``None`` for those of any account.
        """
        with self._lock:
            self._waiting += [(path, account, plan)] * times

    def take(self, target: str, *, upgrade: bool = False, api: bool = True, account: str = "") -> Plan:
        """Remove the first plan for this target from the queue and return it, or return the default.

        :param account: that sends the request.
        :param upgrade: whether the plan is for an opening handshake.
        :param api: whether plans without a path apply to this target.
        """
        with self._lock:
            for index, (path, planned_account, plan) in enumerate(self._waiting):
                matches = api if path is None else target.startswith(path)
                if matches and planned_account in (None, account) and plan.upgrade == upgrade:
                    del self._waiting[index]
                    return plan
        return self.defaults.get(account, self.default) if api else Plan()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)
