"""The listening socket, a thread for each connection, and the handling of its requests.

Uses plain sockets because ``http.server`` changes targets (``//``), merges fields, and controls the framing.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from dataclasses import replace

from ocm_wsgi.simulator import ratelimits, routing, websocket
from ocm_wsgi.simulator.connection import ClientGone, Connection, Cut, DisconnectMonitor
from ocm_wsgi.simulator.exchange import Exchange, Response, World, error_response, planned_response
from ocm_wsgi.simulator.plans import Plan, PlanError
from ocm_wsgi.simulator.receiving import BadMessage, Body, Head, read_body, read_head
from ocm_wsgi.simulator.recording import MAX_STORED_BODY, ReceivedRequest
from ocm_wsgi.simulator.sending import Delivery, before_status

#: The backlog of connections waiting to be accepted.
BACKLOG = 1024
#: The timeout of TLS handshakes, in seconds.
HANDSHAKE_SECONDS = 10.0


class Server:
    """Accepts connections until stopped.

    :param ssl_context: the server's TLS context, or ``None`` for plain HTTP.
    """

    def __init__(self, world: World, host: str, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self._world = world
        self._ssl_context = ssl_context
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._monitor = DisconnectMonitor()
        self._connections: dict[Connection, threading.Thread] = {}
        self._is_stopping = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="simulator-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every connection, busy or not, and join every thread."""
        with self._lock:
            self._is_stopping = True
        # shutdown() interrupts a blocked accept(), close() does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._lock:
            serving = dict(self._connections)
        for connection in serving:
            connection.shut()
        for thread in serving.values():
            thread.join()
        self._monitor.stop()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._is_stopping:
                    return
                continue
            number += 1
            try:
                connection = Connection(self._prepared(sock), number)
            except OSError:  # the client has already disconnected
                sock.close()
                continue
            thread = threading.Thread(target=self._begin, args=(connection,), name=f"simulator-{number}", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _prepared(self, sock: socket.socket) -> socket.socket:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._ssl_context is None:
            return sock
        return self._ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def _begin(self, connection: Connection) -> None:
        """Serve a connection from its TLS handshake to its close."""
        with self._world.journal.open_connection():
            reset = False
            self._monitor.add(connection)
            try:
                reset = self._serve(connection)
            finally:
                self._monitor.remove(connection)
                connection.close(reset=reset)
                with self._lock:
                    del self._connections[connection]

    def _serve(self, connection: Connection) -> bool:
        """Serve requests one after the other; return whether to reset the connection."""
        try:
            if isinstance(connection.socket, ssl.SSLSocket):
                connection.socket.settimeout(HANDSHAKE_SECONDS)
                connection.socket.do_handshake()
                connection.socket.settimeout(None)
            while self._serve_one(connection):
                pass
            connection.close_notify()
        except Cut as cut:
            return cut.reset
        except (ClientGone, OSError):
            pass
        except BadMessage as exc:
            self._refuse(connection, str(exc))
        return False

    def _serve_one(self, connection: Connection) -> bool:
        """Serve one request; return whether another may follow."""
        head = read_head(connection.reader)
        if head is None:
            return False
        return serve_request(self._world, connection, head)

    def _refuse(self, connection: Connection, reason: str) -> None:
        """Record a malformed request and respond with 400, so that its sender notices."""
        self._world.journal.add_bad_message(reason)
        head = Head("GET", "/", "HTTP/1.0", ())
        response = error_response(400, "bad_message", f"The simulator got a bad request: {reason}.")
        with contextlib.suppress(ClientGone, OSError):
            Delivery(connection, head, Plan(), response, self._world.journal, self._world.journal.number()).run(
                body_was_read=False
            )


def serve_request(world: World, connection: Connection, head: Head) -> bool:
    """Serve a request whose head was read; return whether another may follow."""
    route, path = routing.find(head)
    opens_websocket = route.accepts_websocket and head.is_upgrade
    identity, plan = _identity_and_plan(world, head, route, opens_websocket)
    # A plan for turns on a WebSocket does not apply to its opening handshake.
    own_plan = Plan() if opens_websocket and not plan.upgrade else plan
    if own_plan.gate is not None and own_plan.gate.point == "body":
        connection.pass_gate(own_plan.gate)
    body = read_body(connection, head, own_plan)
    number = _record(world, connection, head, body)
    before_status(connection, own_plan)
    account = "" if isinstance(identity, Response) else identity
    exchange = Exchange(world, connection, number, head, path, body, plan, account)
    response = identity if isinstance(identity, Response) else _planned(route, exchange, own_plan)
    if response is None and opens_websocket:
        websocket.serve(exchange)
        return False
    response = response or _handled(route, exchange)
    return Delivery(connection, head, own_plan, response, world.journal, number).run(body_was_read=body.is_complete)


def _identity_and_plan(
    world: World, head: Head, route: routing.Route, opens_websocket: bool
) -> tuple[str | Response, Plan]:
    """Return the account or a refusal, and the plan. Refused requests take no plan from the queue."""
    identity = route.authenticate(world, head)
    if isinstance(identity, Response):
        return identity, Plan()
    try:
        return identity, _plan_for(world, head, route, opens_websocket, identity)
    except PlanError as exc:
        return error_response(400, "bad_plan", str(exc)), Plan()


def _planned(route: routing.Route, exchange: Exchange, plan: Plan) -> Response | None:
    """Return the response in the plan, with the fields that every response of this endpoint has."""
    response = None if route.obeys_plans else planned_response(plan)
    if response is None or not route.reports_limits:
        return response
    return replace(response, fields=(*response.fields, *ratelimits.response_fields(exchange.rate_limits)))


def _plan_for(world: World, head: Head, route: routing.Route, opens_websocket: bool, account: str) -> Plan:
    """Return the plan in the request's own field, or else the first matching one in the queue."""
    own_plan = head.field("X-Simulate")
    if own_plan is not None:
        return Plan.from_json(own_plan)
    return world.plans.take(head.target, upgrade=opens_websocket, api=route.is_api, account=account)


def _handled(route: routing.Route, exchange: Exchange) -> Response:
    try:
        return route.handle(exchange)
    except ValueError as exc:
        return error_response(400, "invalid_json", f"The body could not be read: {exc}")


def _record(world: World, connection: Connection, head: Head, body: Body) -> int:
    number = world.journal.number()
    world.journal.add_request(
        ReceivedRequest(
            number=number,
            method=head.method,
            target=head.target,
            http_version=head.http_version,
            fields=head.fields,
            body_length=len(body.content),
            body_sha256=hashlib.sha256(body.content).hexdigest(),
            body=body.content[:MAX_STORED_BODY],
            connection_id=connection.number,
            at=world.journal.clock(),
        )
    )
    return number
