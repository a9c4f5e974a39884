"""The listening socket, a thread for each connection, and the way of a request through one.

Plain sockets instead of ``http.server``: that one changes targets (``//``), merges fields, and decides about framing.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading

from ocm_wsgi.simulator import routing, websocket
from ocm_wsgi.simulator.connection import ClientGone, Connection, Cut, HangUpWatch
from ocm_wsgi.simulator.exchange import Answer, Exchange, World, error_answer, planned_answer
from ocm_wsgi.simulator.plans import Plan, PlanError
from ocm_wsgi.simulator.receiving import BadMessage, Body, Head, read_body, read_head
from ocm_wsgi.simulator.recording import MAX_KEPT_BODY, Seen
from ocm_wsgi.simulator.sending import Delivery, before_status

#: Connections that may wait to be accepted.
BACKLOG = 1024
#: A client that does not finish its TLS handshake in this time is dropped, in seconds.
HANDSHAKE_SECONDS = 10.0


class Server:
    """Accepts connections until stopped.

    :param ssl_context: of the server, or ``None`` for plain HTTP.
    """

    def __init__(self, world: World, host: str, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self._world = world
        self._ssl_context = ssl_context
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._watch = HangUpWatch()
        self._connections: dict[Connection, threading.Thread] = {}
        self._is_stopping = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="simulator-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every connection, whatever it is doing, and join every thread."""
        with self._lock:
            self._is_stopping = True
        # A blocked accept() is woken by the shutdown, not by the close.
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
        self._watch.stop()

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
            thread = threading.Thread(target=self._begin, args=(sock, number), daemon=True)
            thread.start()

    def _begin(self, sock: socket.socket, number: int) -> None:
        """Serve a connection from its TLS handshake to its close."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._ssl_context is not None:
            sock.settimeout(HANDSHAKE_SECONDS)
            try:
                sock = self._ssl_context.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
            sock.settimeout(None)
        connection = Connection(sock, number)
        reset = False
        with self._lock:
            self._connections[connection] = threading.current_thread()
            if self._is_stopping:
                connection.shut()
        self._watch.add(connection)
        try:
            with self._world.journal.open_connection():
                reset = self._serve(connection)
        finally:
            self._watch.remove(connection)
            connection.close(reset=reset)
            with self._lock:
                del self._connections[connection]

    def _serve(self, connection: Connection) -> bool:
        """Serve one request after the other; return whether the connection is to be reset."""
        try:
            while self._serve_one(connection):
                pass
        except Cut as cut:
            return cut.reset
        except (ClientGone, OSError):
            pass
        except BadMessage as exc:
            self._refuse(connection, str(exc))
        return False

    def _serve_one(self, connection: Connection) -> bool:
        """Read and answer one request; return whether another may follow."""
        head = read_head(connection.reader)
        if head is None:
            return False
        return serve_request(self._world, connection, head)

    def _refuse(self, connection: Connection, reason: str) -> None:
        """Answer what is no request with 400, so that whoever sent it notices."""
        head = Head("GET", "/", "HTTP/1.0", ())
        answer = error_answer(400, "bad_message", f"The simulator got a bad request: {reason}.")
        with contextlib.suppress(ClientGone, OSError):
            Delivery(connection, head, Plan(), answer, self._world.journal, self._world.journal.number()).run(
                body_was_read=False
            )


def serve_request(world: World, connection: Connection, head: Head) -> bool:
    """Take a request from its head to the end of its response; return whether another may follow."""
    route, path = routing.find(head)
    identity = route.authenticate(world, head)
    opens_websocket = route.takes_websocket and head.is_upgrade
    try:
        plan = Plan() if isinstance(identity, Answer) else _plan_for(world, head, route, opens_websocket)
    except PlanError as exc:
        identity, plan = error_answer(400, "bad_plan", str(exc)), Plan()
    if plan.gate is not None and plan.gate.point == "body":
        connection.pass_gate(plan.gate)
    body = read_body(connection, head, plan)
    number = _record(world, connection, head, body)
    before_status(connection, plan)
    account = "" if isinstance(identity, Answer) else identity
    exchange = Exchange(world, connection, number, head, path, body, plan, account)
    planned = None if route.obeys_plans or (opens_websocket and not plan.upgrade) else planned_answer(plan)
    answer = identity if isinstance(identity, Answer) else planned
    if answer is None and opens_websocket:
        websocket.serve(exchange)
        return False
    if answer is None:
        answer = _handled(route, exchange)
    return Delivery(connection, head, plan, answer, world.journal, number).run(body_was_read=body.is_whole)


def _plan_for(world: World, head: Head, route: routing.Route, opens_websocket: bool) -> Plan:
    """Return the plan that the request brings, else the first in the queue that is for it."""
    brought = head.field("X-Simulate")
    if brought is not None:
        return Plan.from_json(brought)
    return world.plans.take(head.target, upgrade=opens_websocket, api=route.is_api) or Plan()


def _handled(route: routing.Route, exchange: Exchange) -> Answer:
    try:
        return route.handle(exchange)
    except ValueError as exc:
        return error_answer(400, "invalid_json", f"The body could not be read: {exc}")


def _record(world: World, connection: Connection, head: Head, body: Body) -> int:
    number = world.journal.number()
    world.journal.add_request(
        Seen(
            number=number,
            method=head.method,
            target=head.target,
            http_version=head.http_version,
            fields=head.fields,
            body_length=len(body.content),
            body_sha256=hashlib.sha256(body.content).hexdigest(),
            body=body.content[:MAX_KEPT_BODY],
            connection_id=connection.number,
            at=world.journal.clock(),
        )
    )
    return number
