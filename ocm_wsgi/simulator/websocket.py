"""Responses over a WebSocket (CODEX.md section 5).

Uses the ``websockets`` package's sans-I/O protocol: the connection's own thread reads and writes, so plans can cause
the same faults as on HTTP connections.
"""

from __future__ import annotations

import json
import select
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from ocm_wsgi.simulator import ratelimits
from ocm_wsgi.simulator.connection import ClientGone, Cut
from ocm_wsgi.simulator.exchange import Exchange, planned_response
from ocm_wsgi.simulator.model import DEFAULT_ERROR, Output, new_id
from ocm_wsgi.simulator.plans import Plan
from ocm_wsgi.simulator.receiving import Head
from ocm_wsgi.simulator.recording import Create, Sent
from ocm_wsgi.simulator.targets import API_BASE, CODEX_BASE, is_below

#: The maximum size of a message in bytes, as in Codex's own library.
MAX_MESSAGE = 64 * 1024 * 1024
READ_SIZE = 64 * 1024
#: How often a blocked response checks for frames from the client, in seconds.
HELD_SECONDS = 0.1
#: How long to wait for the client to disconnect after our Close frame, in seconds.
CLOSE_SECONDS = 2.0


def serve(exchange: Exchange) -> None:
    """Accept the opening handshake and respond to each ``response.create`` until the connection ends.

    :raises ClientGone: the client dropped the connection, as Codex always does.
    :raises Cut: a plan closed the connection.
    """
    session = Session(exchange)
    if session.open():
        for message in session.messages():
            session.handle(message)


class Session:
    """One WebSocket."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=MAX_MESSAGE)
        self._waiting: deque[str] = deque()
        self._fragments: list[bytes] = []
        self._known_ids: set[str] = set()
        self._sent = Sent(exchange.number, exchange.head.target, 101)

    def open(self) -> bool:
        """Respond to the opening handshake; return whether it was accepted."""
        self._protocol.receive_data(_handshake_bytes(self._exchange.head))
        (request,) = self._protocol.events_received()
        if not isinstance(request, Request):
            raise TypeError("an opening handshake was expected")
        response = self._protocol.accept(request)
        planned = self._exchange.plan.fields if self._exchange.plan.upgrade else ()
        for name, value in (("x-request-id", new_id("req")), *planned):
            response.headers[name] = value
        self._protocol.send_response(response)
        self._exchange.world.journal.add_sent(self._sent)
        self._flush()
        return response.status_code == 101

    def messages(self) -> Iterator[str]:
        """Yield the client's messages until it closes the WebSocket."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._protocol.state is not State.OPEN:
                return
            self._receive()

    def handle(self, message: str) -> None:
        """Respond to one message from the client."""
        try:
            request = json.loads(message)
        except ValueError:
            request = None
        if not isinstance(request, dict) or request.get("type") != "response.create":
            self._send(_error(400, "invalid_request", "Only response.create is supported."))
            return
        is_prewarm = request.get("generate") is False
        previous = request.get("previous_response_id")
        self._exchange.world.journal.add_create(Create(self._exchange.number, not is_prewarm, previous))
        if previous is not None and previous not in self._known_ids:
            message = f"Previous response with id '{previous}' not found."
            self._send(_error(400, "previous_response_not_found", message))
            return
        plan = Plan(output=(), usage=None) if is_prewarm else self._next_plan()
        refusal = _refusal(plan, self._limit_fields(plan))
        if refusal is not None:
            self._send(refusal)
            return
        self._send_turn(self._output(request, plan), is_recorded=not is_prewarm)

    def _next_plan(self) -> Plan:
        """Return the handshake's plan for all turns, or else the next one in the queue."""
        exchange = self._exchange
        if exchange.head.field("X-Simulate") is not None and not exchange.plan.upgrade:
            return exchange.plan
        return exchange.world.plans.take(exchange.head.target)

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
        """Send a turn's events; record the turn just before its last event, or when it is cut off."""
        journal = self._exchange.world.journal
        is_open = is_recorded
        with journal.open_stream():
            try:
                self._send_limits(output.plan)
                self._reach(output.plan, 0)
                for number, (event, ends) in enumerate(output.events(), 1):
                    self._pause(output.plan, number)
                    if ends == "completed":
                        self._known_ids.add(output.response_id)
                    if ends is not None and is_open:
                        is_open = False
                        journal.add_turn(output.turn(ends, "websocket"))
                    self._send(_as_message(event))
                    self._reach(output.plan, number)
            finally:
                if is_open:
                    journal.add_turn(output.turn("cut", "websocket"))

    def _send_limits(self, plan: Plan) -> None:
        limits = self._limits(plan)
        if limits:
            self._send(ratelimits.message(limits))

    def _limits(self, plan: Plan) -> Mapping[str, Any]:
        if not is_below(CODEX_BASE, self._exchange.path):
            return {}
        return self._exchange.world.rate_limits if plan.rate_limits is None else plan.rate_limits

    def _limit_fields(self, plan: Plan) -> dict[str, str]:
        return {**dict(ratelimits.response_fields(self._limits(plan))), **dict(plan.fields)}

    def _pause(self, plan: Plan, number: int) -> None:
        """Wait for the planned interval, and process frames received meanwhile."""
        if plan.interval and number > 1:
            self._connection.wait(lambda: False, timeout=plan.interval)
        self._receive_pending()

    def _reach(self, plan: Plan, number: int) -> None:
        """Apply the plan after this event."""
        gate = plan.gate
        if gate is not None and gate.point == number:
            gate.join(self._connection.wake)
            try:
                self._hold(lambda: gate.released)
            finally:
                gate.leave(self._connection.wake)
        if plan.silence_after == number:
            self._hold(lambda: False)
        if plan.cut_after == number and plan.close_code is not None:
            self._close(plan.close_code, plan.close_reason)
        if number in (plan.cut_after, plan.reset_after):
            raise Cut(reset=plan.reset_after == number)

    def _close(self, code: int, reason: str) -> None:
        """Send a Close frame and wait for the client's, or for its disconnect."""
        self._protocol.send_close(code, reason)
        self._flush()
        self._connection.socket.settimeout(CLOSE_SECONDS)
        while self._protocol.close_rcvd is None:
            self._receive()

    def _hold(self, until: Callable[[], bool]) -> None:
        """Wait, while processing Close frames and pings."""
        while not until():
            self._connection.wait(until, timeout=HELD_SECONDS)
            self._receive_pending()

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message, separators=(",", ":")).encode()
        self._sent.add(data)
        self._protocol.send_text(data)
        self._flush()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._connection.send(data)

    def _receive_pending(self) -> None:
        """Process the data received so far.

        :raises ClientGone: it was a Close frame, or the end of the connection.
        """
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLIN)
        while poll.poll(0) or _has_pending(self._connection.socket):
            self._receive()
            if self._protocol.state is not State.OPEN:
                raise ClientGone

    def _receive(self) -> None:
        """Read once, queue completed messages, and respond to control frames."""
        data = self._connection.reader.read1(READ_SIZE)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for frame in self._protocol.events_received():
            self._take_frame(frame)
        self._flush()
        if not data:
            raise ClientGone

    def _take_frame(self, frame: Any) -> None:
        if frame.opcode is Opcode.BINARY:
            self._protocol.fail(1003, "only text is supported")
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.CONT):
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            self._waiting.append(b"".join(self._fragments).decode("utf-8", "replace"))
            self._fragments.clear()


def _handshake_bytes(head: Head) -> bytes:
    """Return the opening handshake with the fields that the protocol needs; it rejects Codex's longest fields."""
    names = ("host", "upgrade", "connection", "origin")
    fields = [
        f"{name}: {value}"
        for name, value in head.fields
        if name.lower() in names or name.lower().startswith("sec-websocket-")
    ]
    return "\r\n".join([f"GET {API_BASE} HTTP/1.1", *fields, "", ""]).encode("latin-1")


def _has_pending(sock: Any) -> bool:
    """Return whether TLS has decrypted data that was not read yet."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


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
