"""The context of a request, as passed to every endpoint, and the responses that endpoints return."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ocm_wsgi.simulator import ratelimits
from ocm_wsgi.simulator.connection import Connection, Cut
from ocm_wsgi.simulator.devices import Devices
from ocm_wsgi.simulator.issuer import Issuer
from ocm_wsgi.simulator.object_store import StoredObjects
from ocm_wsgi.simulator.plans import Gate, Plan, PlanQueue
from ocm_wsgi.simulator.receiving import Body, Head, decoded
from ocm_wsgi.simulator.recording import Journal


class Event(NamedTuple):
    """A part of a body that is sent at once.

    :ivar ends: the turn's final status if this event ends it.
    """

    data: bytes
    ends: str | None = None


@dataclass(frozen=True)
class Response:
    """A response from an endpoint; ``sending.py`` adds the framing and the plan's faults.

    :ivar is_streamed: sent chunked unless planned otherwise; other responses have a ``Content-Length``.
    :ivar finish: called once with the turn's status, just before its last event is sent.
    """

    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()
    events: Iterable[Event] = ()
    is_streamed: bool = False
    finish: Callable[[str], None] | None = None


@dataclass
class World:
    """The simulator's state, shared by all connections.

    :ivar account_rate_limits: in place of ``rate_limits``, by account.
    :ivar objects: what the platform stores.
    :ivar background_polls: how often a background response is fetched while it is still in progress.
    """

    journal: Journal
    issuer: Issuer
    plans: PlanQueue = field(default_factory=PlanQueue)
    devices: Devices = field(default_factory=Devices)
    rate_limits: Mapping[str, Any] = field(default_factory=dict)
    account_rate_limits: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    url: str = ""
    objects: StoredObjects = field(default_factory=StoredObjects)
    background_polls: int = 0

    def __post_init__(self) -> None:
        self.rate_limits = self.rate_limits or ratelimits.default(self.journal.clock())

    def rate_limits_of(self, account: str) -> Mapping[str, Any]:
        """Return the windows of an account."""
        return self.account_rate_limits.get(account, self.rate_limits)


@dataclass(frozen=True)
class Exchange:
    """One request, read and recorded.

    :ivar number: its number in the journal.
    :ivar path: the target's path without the query, as interpreted by the origin.
    :ivar account: the authenticated account, or ``""``.
    """

    world: World
    connection: Connection
    number: int
    head: Head
    path: str
    body: Body
    plan: Plan
    account: str

    def object(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        :raises ValueError: the body is not a JSON object.
        """
        value = json.loads(decoded(self.body.content, self.head.field("Content-Encoding")))
        if not isinstance(value, dict):
            raise ValueError("the body is not a JSON object")
        return value

    def pass_point(self, point: str) -> None:
        """Apply the plan at a named point.

        :raises Cut: the plan closes the connection here.
        :raises ClientGone: the client disconnected at a gate.
        """
        reach(self.connection, self.plan, point)

    @property
    def rate_limits(self) -> Mapping[str, Any]:
        return self.world.rate_limits_of(self.account) if self.plan.rate_limits is None else self.plan.rate_limits


def reach(connection: Connection, plan: Plan, point: int | str) -> None:
    """Like :meth:`Exchange.pass_point`, also usable before there is an exchange."""
    gate: Gate | None = plan.gate
    if gate is not None and gate.point == point:
        connection.pass_gate(gate)
    if plan.cut_at == point:
        raise Cut


def json_response(value: Any, *, status: int = 200, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a JSON response."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, (("Content-Type", "application/json"), *fields), (Event(data),))


def error_response(
    status: int, code: str | None, message: str, *, error_type: str = "invalid_request_error"
) -> Response:
    """Return an error response in the platform's format."""
    return json_response(error_body(code, message, error_type=error_type), status=status)


def error_body(code: str | None, message: str, *, error_type: str = "invalid_request_error") -> dict[str, Any]:
    """Return an error in the platform's format, for the body of a response."""
    return {"error": {"message": message, "type": error_type, "param": None, "code": code}}


def planned_response(plan: Plan) -> Response | None:
    """Return the complete response that the plan contains, or ``None`` if the endpoint has to create it."""
    status = plan.status or 200
    if plan.json is not None:
        return json_response(plan.json, status=status)
    if plan.body is not None:
        size = plan.event_bytes or len(plan.body) or 1
        pieces = (plan.body[start : start + size] for start in range(0, len(plan.body), size))
        named = any(name.lower() == "content-type" for name, _ in plan.fields)
        fields = () if named else (("Content-Type", "application/octet-stream"),)
        return Response(status, fields, tuple(Event(piece) for piece in pieces))
    if plan.status in (204, 304):
        return Response(status)
    if status >= 300:
        code, message = plan.error or ("simulated_error", f"Simulated status {status}.")
        return error_response(status, code, message, error_type=plan.error_type)
    return None
