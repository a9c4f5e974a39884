"""Responses over a WebSocket (CODEX.md section 5).

While a plan holds a response back, further messages are handled: a ``response.create`` of another lane is answered at
once and completely, and the held response can be interrupted or steered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ocm_wsgi.simulator import ratelimits
from ocm_wsgi.simulator.backend import unsupported_parameter
from ocm_wsgi.simulator.connection import Cut
from ocm_wsgi.simulator.exchange import Exchange, planned_response
from ocm_wsgi.simulator.model import DEFAULT_ERROR, Output, new_id
from ocm_wsgi.simulator.plans import Plan
from ocm_wsgi.simulator.recording import Create
from ocm_wsgi.simulator.targets import API_BASE, CODEX_BASE, is_below
from ocm_wsgi.simulator.websocket_messages import HELD_SECONDS, Messages


def serve(exchange: Exchange) -> None:
    """Accept the opening handshake and respond to each message until the connection ends.

    :raises ClientGone: the client dropped the connection, as Codex usually does.
    :raises Cut: a plan closed the connection.
    """
    session = Session(exchange)
    if session.open():
        session.run()


@dataclass
class _Running:
    """A response that is being sent.

    :ivar stop: why it is to end before its time (``interrupted``, ``steered``), or ``None``.
    :ivar steers: the input of the messages that steer it.
    """

    output: Output
    sequence_number: int = 0
    stop: str | None = None
    steers: list[Any] = field(default_factory=list)

    @property
    def lane(self) -> Any:
        return self.output.request.get("stream_id")


class _Stopped(Exception):
    """The response that is being sent ends before its time."""


class Session:
    """One WebSocket."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._messages = Messages(exchange)
        self._known_ids: set[str] = set()
        self._running: list[_Running] = []

    def open(self) -> bool:
        """Respond to the opening handshake; return whether it was accepted."""
        return self._messages.open()

    def run(self) -> None:
        """Handle the client's messages until it closes the WebSocket."""
        messages = self._messages
        while True:
            while messages.waiting:
                self._handle(_parsed(messages.waiting.popleft()))
            if not messages.is_open:
                return
            messages.receive()

    def _handle(self, request: Mapping[str, Any]) -> None:
        kind = request.get("type")
        if kind == "response.create":
            self._create(request)
        elif kind == "response.steer":
            self._steer(request)
        elif kind == "response.inject":
            self._inject(request)
        elif kind == "response.interrupt":
            for running in self._running_with(request.get("response_id")):
                running.stop = "interrupted"
        elif kind != "response.processed":
            self._send(_error(400, "invalid_request", "This type of message is not supported."), request)

    def _create(self, request: Mapping[str, Any]) -> None:
        is_prewarm = request.get("generate") is False
        previous = request.get("previous_response_id")
        self._exchange.world.journal.add_create(Create(self._exchange.number, not is_prewarm, previous))
        unsupported = unsupported_parameter(request)
        if unsupported is not None and is_below(CODEX_BASE, self._exchange.path):
            self._send(_error(400, "unsupported_parameter", unsupported), request)
            return
        stored = self._exchange.world.objects
        if previous is not None and previous not in self._known_ids and stored.get("responses", previous) is None:
            message = f"Previous response with id '{previous}' not found."
            self._send(_error(400, "previous_response_not_found", message), request)
            return
        plan = Plan(output=(), usage=None) if is_prewarm else self._next_plan()
        refusal = _refusal(plan, self._limit_fields(plan))
        if refusal is not None:
            self._send(refusal, request)
            return
        self._send_turn(self._output(request, plan), is_recorded=not is_prewarm)

    def _steer(self, request: Mapping[str, Any]) -> None:
        """Accept the input, and end the response that it steers as soon as possible."""
        parent = request.get("previous_response_id")
        steer: dict[str, Any] = {"previous_response_id": parent}
        steered = self._running_with(parent)
        if not steered:
            error = {"type": "invalid_request_error", "code": "response_not_found", "message": "No such response."}
            steer["input"] = request.get("input")
            self._send({"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}, {})
            return
        (running,) = steered
        running.stop = "steered"
        running.steers.append(request.get("input"))
        running.sequence_number += 1
        accepted = {"sequence_number": running.sequence_number, "steer": {"id": new_id("steer"), **steer}}
        self._send({"type": "response.steer.accepted", **accepted}, running.output.request)

    def _inject(self, request: Mapping[str, Any]) -> None:
        """Accept the input for a response that is in progress."""
        response_id = request.get("response_id")
        answer: dict[str, Any] = {"response_id": response_id, "sequence_number": 0}
        for running in self._running_with(response_id):
            self._send({"type": "response.inject.created", **answer}, running.output.request)
            return
        error = {"code": "response_not_found", "message": "No such response."}
        self._send({"type": "response.inject.failed", **answer, "input": request.get("input"), "error": error}, {})

    def _running_with(self, response_id: object) -> list[_Running]:
        return [running for running in self._running if running.output.response_id == response_id]

    def _next_plan(self) -> Plan:
        """Return the handshake's plan for all turns, or else the next one in the queue."""
        exchange = self._exchange
        if exchange.head.field("X-Simulate") is not None and not exchange.plan.upgrade:
            return exchange.plan
        return exchange.world.plans.take(exchange.head.target, account=exchange.account)

    def _output(self, request: Mapping[str, Any], plan: Plan) -> Output:
        exchange = self._exchange
        return Output(
            request=request,
            plan=plan,
            response_id=new_id("resp"),
            created_at=int(exchange.world.journal.clock()),
            number=exchange.number,
            account=exchange.account,
        )

    def _send_turn(self, output: Output, *, is_recorded: bool) -> None:
        """Send a turn's events, and those of the turn that follows if it was steered."""
        running = _Running(output)
        self._running.append(running)
        with self._exchange.world.journal.open_stream():
            try:
                self._send_events(running, is_recorded=is_recorded)
            finally:
                self._running.remove(running)
        if running.steers:
            request = {**output.request, "previous_response_id": output.response_id, "input": running.steers}
            self._send_turn(self._output(request, self._next_plan()), is_recorded=True)

    def _send_events(self, running: _Running, *, is_recorded: bool) -> None:
        """Send a turn's events; record the turn just before its last event, or when it is cut off."""
        output = running.output
        is_open = is_recorded
        try:
            for event, ends in self._events(running):
                if ends in ("completed", "incomplete"):
                    self._known_ids.add(output.response_id)
                    if output.request.get("store", True) and is_below(API_BASE, self._exchange.path):
                        self._exchange.world.objects.add("responses", output.response(ends))
                if ends is not None and is_open:
                    is_open = False
                    self._exchange.world.journal.add_turn(output.turn(ends, "websocket"))
                self._send(_as_message(event), output.request)
        finally:
            if is_open:
                self._exchange.world.journal.add_turn(output.turn("cut", "websocket"))

    def _events(self, running: _Running) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield the events as planned, each with the turn's status if it ends the turn, or until it is stopped."""
        output, plan = running.output, running.output.plan
        limits = self._limits(plan)
        if limits:
            self._send(ratelimits.message(limits), {})
        try:
            self._reach(plan, 0, running)
            for number, (event, ends) in enumerate(output.events(), 1):
                self._pause(plan, number, running)
                running.sequence_number = max(running.sequence_number + 1, event["sequence_number"])
                yield event, ends
                self._reach(plan, number, running)
        except _Stopped:
            response = output.response("incomplete")
            response |= {"incomplete_details": {"reason": running.stop}, "end_turn": False}
            number = running.sequence_number + 1
            yield {"type": "response.incomplete", "sequence_number": number, "response": response}, "incomplete"

    def _limits(self, plan: Plan) -> Mapping[str, Any]:
        if not is_below(CODEX_BASE, self._exchange.path):
            return {}
        world, account = self._exchange.world, self._exchange.account
        return world.rate_limits_of(account) if plan.rate_limits is None else plan.rate_limits

    def _limit_fields(self, plan: Plan) -> dict[str, str]:
        return {**dict(ratelimits.response_fields(self._limits(plan))), **dict(plan.fields)}

    def _pause(self, plan: Plan, number: int, running: _Running) -> None:
        """Wait for the planned interval, and process frames received meanwhile, but first begin to respond."""
        if number > 1:
            if plan.interval:
                self._connection.wait(lambda: False, timeout=plan.interval)
            self._handle_pending(running)

    def _reach(self, plan: Plan, number: int, running: _Running) -> None:
        """Apply the plan after this event."""
        gate = plan.gate
        if gate is not None and gate.point == number:
            gate.join(self._connection.wake)
            try:
                self._hold(lambda: gate.released, running)
            finally:
                gate.leave(self._connection.wake)
        if plan.silence_after == number:
            self._hold(lambda: False, running)
        if plan.cut_after == number and plan.close_code is not None:
            self._messages.close(plan.close_code, plan.close_reason)
        if number in (plan.cut_after, plan.reset_after):
            raise Cut(reset=plan.reset_after == number)

    def _hold(self, until: Callable[[], bool], running: _Running) -> None:
        """Wait, while processing the frames that are received."""
        while not until():
            self._handle_pending(running)
            self._connection.wait(until, timeout=HELD_SECONDS)

    def _handle_pending(self, running: _Running) -> None:
        """Process what was received, and handle the messages that do not have to wait for the running responses.

        :raises _Stopped: the innermost response ends before its time.
        """
        self._messages.receive_pending()
        while (request := self._take_pending()) is not None:
            self._handle(request)
        if running.stop is not None:
            raise _Stopped

    def _take_pending(self) -> dict[str, Any] | None:
        """Return the first message that does not have to wait, if there is one."""
        lanes = [running.lane for running in self._running]
        for number, text in enumerate(self._messages.waiting):
            request = _parsed(text)
            if request.get("type") != "response.create" or request.get("stream_id") not in lanes:
                del self._messages.waiting[number]
                return request
        return None

    def _send(self, message: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """Send a message in the lane of a request."""
        lane = request.get("stream_id")
        self._messages.send(message if lane is None else {**message, "stream_id": lane})


def _parsed(message: str) -> dict[str, Any]:
    try:
        request = json.loads(message)
    except ValueError:
        request = None
    return request if isinstance(request, dict) else {}


def _refusal(plan: Plan, fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the ``error`` message for a plan of an HTTP error, with that response's fields."""
    response = planned_response(plan)
    if response is None:
        return None
    try:
        body = json.loads(b"".join(event.data for event in response.events))
    except ValueError:
        body = {}
    error = body.get("error") if isinstance(body, dict) else None
    code, message = plan.error or DEFAULT_ERROR
    error = error or {"type": plan.error_type, "code": code, "message": message}
    return {"type": "error", "status": response.status, "error": error, "headers": dict(fields)}


def _error(status: int, code: str, message: str) -> dict[str, Any]:
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
    return {"type": "error", "status": status, "error": error}


def _as_message(event: dict[str, Any]) -> dict[str, Any]:
    """Convert an event to a WebSocket message: an ``error`` has another format there than on an event stream."""
    if event["type"] != "error":
        return event
    return {**_error(500, event["code"], event["message"]), "sequence_number": event["sequence_number"]}
