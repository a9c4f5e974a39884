"""The purpose of the event loop: many streams on few threads, and no client delayed by idle ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme

from ocm_wsgi.simulator import Gate, Plan, Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.api_requests import BODY, LENGTH, TURN, connected, head, post, read_response, receive_until
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory, start_service
from tests.faults.stack import GONE_SECONDS

REQUEST = head(**LENGTH) + BODY
LAST_CHUNK = b"0\r\n\r\n"


def recorded(running: RunningService) -> Counter[str]:
    """Return the number of turns in the ledger, by status."""
    query = sa.select(db.turn.c.status, sa.func.count()).group_by(db.turn.c.status)
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        return Counter({row[0]: row[1] for row in connection.execute(query)})


def poll(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Poll until a condition of another process holds, as there is no event to wait for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def workers_of(running: RunningService) -> list[int]:
    """Return the ids of the current worker processes."""
    return [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]


def threads_of(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


@contextlib.contextmanager
def open_streams(
    running: RunningService, count: int, request: bytes = REQUEST
) -> Iterator[tuple[list[socket.socket], Gate]]:
    """Open streams that pause after their second event until the gate is released."""
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate, events=5), times=count)
    with ExitStack() as connections:
        clients = [connections.enter_context(connected(running)) for _ in range(count)]
        for client in clients:
            # One after another, as a user may not have all threads wait for OpenAI.
            client.sendall(request)
            receive_until(client, b"response.created")
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == count, timeout=30)
        yield clients, gate


def are_complete(clients: list[socket.socket]) -> bool:
    """Return whether every stream has received its terminal event and its last chunk."""
    ends = [receive_until(client, LAST_CHUNK) for client in clients]
    return all(b"response.completed" in end for end in ends)


def test_many_streams_need_few_threads(service: ServiceFactory) -> None:
    """With four threads, 300 concurrent streams are open, all complete, and each is recorded."""
    running = service(workers=1, arguments=("--threads", "4"))
    with open_streams(running, 300) as (clients, gate):
        (worker,) = workers_of(running)
        assert threads_of(worker) < 20
        gate.release()
        assert are_complete(clients)
        assert recorded(running) == {"completed": 300}


def test_no_field_makes_a_stream_occupy_a_thread(service: ServiceFactory) -> None:
    """A field named Version is not mistaken for gunicorn's own announcement of HTTP/2, whose streams need threads."""
    running = service(workers=1, arguments=("--threads", "2"))
    with open_streams(running, 20, head(Version="2", **LENGTH) + BODY) as (clients, gate):
        assert post(running).status_code == 200
        gate.release()
        assert are_complete(clients)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_open_streams_complete(service: ServiceFactory, number: signal.Signals) -> None:
    """At a stop, an interrupt or a reload, open streams complete and are recorded."""
    running = service(workers=2)
    with open_streams(running, 50) as (clients, gate):
        before = workers_of(running)
        running.process.send_signal(number)
        if number == signal.SIGHUP:
            poll(lambda: len(set(workers_of(running)) - set(before)) == 2)
            assert post(running).status_code == 200
        gate.release()
        assert are_complete(clients)
    done = recorded(running)["completed"]
    assert done == (51 if number == signal.SIGHUP else 50)
    assert (running.process.wait(20) if number != signal.SIGHUP else running.stop()) == 0


def test_streams_open_at_the_end_of_the_grace_period_are_cut(service: ServiceFactory) -> None:
    """A stream that does not end delays a stop by the grace period, and is recorded as cut."""
    running = service(workers=1, arguments=("--graceful-timeout", "2"))
    with open_streams(running, 3) as (clients, _):
        assert running.stop() == 0
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    assert LAST_CHUNK not in data
    assert recorded(running) == {"cut": 3}


def test_killed_worker_cuts_its_streams(service: ServiceFactory) -> None:
    """A killed worker never makes a response look complete."""
    running = service(workers=1)
    with open_streams(running, 3) as (clients, _):
        (worker,) = workers_of(running)
        os.kill(worker, signal.SIGKILL)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    assert LAST_CHUNK not in data


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(REQUEST[:40], id="half-a-head"),
        pytest.param(head(token="sk-ocm-unknown", **LENGTH) + BODY[:5], id="half-a-body-of-an-unknown-user"),
        pytest.param(head("GET", "/nowhere", Connection="close"), id="does-not-close"),
    ],
)
def test_idle_clients_delay_no_others(service: ServiceFactory, beginning: bytes) -> None:
    """100 clients that stop sending occupy no thread and do not delay other clients."""
    running = service(workers=1, arguments=("--threads", "2"))
    with ExitStack() as connections:
        for _ in range(100):
            connections.enter_context(connected(running)).sendall(beginning)
        started = time.monotonic()
        for _ in range(5):
            assert post(running).status_code == 200
        # A delayed request would wait for a deadline of 30 s, or 2 s for each client that does not close.
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("fields", "pieces"),
    [
        pytest.param(LENGTH, [BODY[:9], BODY[9:]], id="length"),
        pytest.param({"Expect": "100-continue", **LENGTH}, [b"", BODY], id="awaits-100-continue"),
        pytest.param(
            {"Transfer-Encoding": "chunked"},
            [b"%x\r\n%b" % (len(BODY), BODY[:9]), BODY[9:] + b"\r\n0\r\n\r\n"],
            id="chunked",
        ),
        pytest.param(
            {"Content-Length": len(BODY) + 2**21}, [BODY + b" " * (2**20 + 99), b" " * (2**20 - 99)], id="megabytes"
        ),
    ],
)
def test_half_bodies_of_users_delay_no_others(
    service: ServiceFactory, fields: dict[str, object], pieces: list[bytes]
) -> None:
    """50 uploads of a user that stop halfway occupy no thread; when they go on, each of them is served."""
    running = service(workers=1, arguments=("--threads", "2"))
    with ExitStack() as connections:
        uploads = [connections.enter_context(connected(running)) for _ in range(50)]
        for upload in uploads:
            upload.sendall(head(token=BOB, **fields) + pieces[0])
        assert post(running).status_code == 200
        assert len(running.simulator.requests) == 1
        for upload in uploads:
            # A second request, which arrives with the end of the first one.
            upload.sendall(pieces[1] + REQUEST)
            received = b""
            while received.count(LAST_CHUNK) < 2:
                received += upload.recv(65536) or pytest.fail(f"cut off: {received!r}")
            assert received.count(b"HTTP/1.1 200 OK") == 2
            assert received.count(b"100 Continue") == ("Expect" in fields)
    bodies = {request.body.strip() for request in running.simulator.requests}
    assert bodies == {BODY}
    assert len(running.simulator.requests) == 101


def test_stalled_clients_delay_no_others(service: ServiceFactory) -> None:
    """Clients that read nothing pause their own upstream, and not the worker."""
    running = service(workers=1, arguments=("--threads", "2"))
    running.simulator.plan(Plan(body=bytes(16 * 2**20), framing="chunked"), times=20)
    with ExitStack() as connections:
        for _ in range(20):
            client = connections.enter_context(connected(running))
            # One after another, as a user may not have all threads wait for OpenAI.
            client.sendall(REQUEST)
            assert client.recv(1) == b"H"
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == 20, timeout=20)
        assert post(running).status_code == 200


def test_unread_responses_delay_no_others(service: ServiceFactory) -> None:
    """Strangers who ask for many files, and then read nothing, occupy none of the two threads."""
    running = service(workers=1, arguments=("--threads", "2"))
    request = b"GET /ocm/static/dashboard.css HTTP/1.1\r\nHost: ocm\r\n\r\n"
    with ExitStack() as connections:
        strangers = [connections.enter_context(socket.socket()) for _ in range(4)]
        for stranger in strangers:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stranger.connect(running.address)
            stranger.sendall(request * 600)
        # Six megabytes for each stranger are more than the kernel buffers.
        poll(lambda: not is_served_more(running), seconds=60)
        assert post(running).status_code == 200
        received = 0
        while received < 600 * 9000:
            received += len(strangers[0].recv(2**20))


def is_served_more(running: RunningService) -> bool:
    """Return whether further requests are logged within a moment."""
    before = running.log_text().count("\n")
    threading.Event().wait(1)
    return running.log_text().count("\n") > before


def test_pipelined_requests_are_answered_in_order(service: ServiceFactory) -> None:
    """Pipelined requests are handled one after another (RFC 9112 section 9.3.2)."""
    running = service(workers=1)
    for text in ("<one>", "<two>", "<three>"):
        running.simulator.plan(Plan(text=text, events=1))
    with connected(running) as connection:
        connection.sendall(REQUEST * 3)
        received = receive_until(connection, LAST_CHUNK)
        while received.count(b"response.completed") < 6 or not received.endswith(LAST_CHUNK):
            received += connection.recv(65536)
    assert received.index(b"<one>") < received.index(b"<two>") < received.index(b"<three>")


def test_upstream_connections_are_reused(service: ServiceFactory) -> None:
    """Consecutive turns share a connection."""
    running = service(workers=1)
    for _ in range(10):
        assert post(running).status_code == 200
    assert running.simulator.open_connections <= 2


def test_data_after_a_response_reaches_no_client(service: ServiceFactory) -> None:
    """A connection with data after the response is not reused."""
    running = service(workers=1)
    running.simulator.plan(Plan(extra_response=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"))
    for _ in range(3):
        assert "secret" not in post(running).text


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, ssl.SSLContext]]:
    """The service with TLS on both sides, and an SSL context for its clients."""
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "roots.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server)
    client = ssl.create_default_context(cafile=str(folder / "roots.pem"))
    path = str(folder / "server.pem")
    with Simulator("localhost", ssl_context=server) as simulator:
        options: dict[str, Any] = {
            "tls": {"enabled": True, "certificate_path": path, "key_path": path},
            "certificate": {"certificate_path": [str(folder / "roots.pem")]},
        }
        threads = ("--threads", "2")
        with start_service(simulator, folder / "service", workers=1, arguments=threads, **options) as running:
            yield running, client


@contextlib.contextmanager
def connected_over_tls(secure: tuple[RunningService, ssl.SSLContext]) -> Iterator[ssl.SSLSocket]:
    """Open a TLS connection to the service."""
    running, context = secure
    with connected(running) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_tls_on_both_sides(secure: tuple[RunningService, ssl.SSLContext], framing: str) -> None:
    """Large and small bodies are relayed in full over one client connection."""
    simulator = secure[0].simulator
    content = os.urandom(3 * 2**20)
    with connected_over_tls(secure) as connection:
        for plan in (Plan(body=content, framing=framing), Plan(framing=framing), Plan(body=b"{}", framing=framing)):
            simulator.plan(plan)
            connection.sendall(REQUEST)
            status, _, body = read_response(connection)
            assert status == 200
            assert body == plan.body or b"response.completed" in body
    assert simulator.wait_for(lambda: simulator.open_streams == 0)


def test_slow_reader_over_tls_gets_everything(secure: tuple[RunningService, ssl.SSLContext]) -> None:
    """Back-pressure over TLS loses nothing."""
    content = os.urandom(12 * 2**20)
    secure[0].simulator.plan(Plan(body=content, framing="chunked", chunking=50_000))
    with connected_over_tls(secure) as connection:
        connection.sendall(head(Connection="close", **LENGTH) + BODY)
        assert secure[0].simulator.wait_for(lambda: secure[0].simulator.open_streams == 1)
        _, _, body = read_response(connection)
    assert body == content


def test_disconnect_over_tls_ends_the_upstream_request(
    secure: tuple[RunningService, ssl.SSLContext],
) -> None:
    """A disconnect is noticed under TLS too, even while upstream is silent."""
    simulator = secure[0].simulator
    simulator.plan(Plan(silence_after=2))
    with connected_over_tls(secure) as connection:
        connection.sendall(REQUEST)
        receive_until(connection, b"response.created")
        idle = simulator.open_connections - 1
    assert simulator.wait_for(lambda: simulator.open_connections <= idle, GONE_SECONDS)


def test_disconnect_is_noticed_within_a_second(service: ServiceFactory) -> None:
    """A silent upstream is disconnected within a second; a busy machine gets up to ten attempts."""
    running = service(workers=1)
    simulator = running.simulator
    waits: list[float] = []
    while not waits or (waits[-1] >= 1 and len(waits) < 10):
        simulator.plan(Plan(silence_after=2))
        with connected(running) as connection:
            connection.sendall(REQUEST)
            receive_until(connection, b"response.created")
        left = time.monotonic()
        assert simulator.wait_for(lambda: simulator.open_streams == 0)
        waits.append(time.monotonic() - left)
    assert waits[-1] < 1


def hello(context: ssl.SSLContext) -> bytes:
    """Return the first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("sent", ["nothing", "half-a-hello", "dribbled-hello", "hello", "half-a-head", "half-a-form"])
def test_unfinished_handshakes_delay_no_others(secure: tuple[RunningService, ssl.SSLContext], sent: str) -> None:
    """Clients that stop at any point of a handshake, or after it, occupy no thread, of which there are two."""
    context = secure[1]
    with ExitStack() as connections:
        for _ in range(50):
            if sent.endswith(("head", "form")):
                secured = connections.enter_context(connected_over_tls(secure))
                secured.sendall(b"POST /ocm/sign-in HTTP/1.1\r\nContent-Length: 9\r\n")
                secured.sendall(b"\r\nhalf" if sent == "half-a-form" else b"X-Half")
                continue
            plain = connections.enter_context(connected(secure[0]))
            message = hello(context)
            pieces = {
                "nothing": [],
                "half-a-hello": [message[:100]],
                "dribbled-hello": [message[at : at + 1] for at in range(20)],
                "hello": [message],
            }
            for piece in pieces[sent]:
                plain.sendall(piece)
        for _ in range(3):
            with connected_over_tls(secure) as connection:
                connection.sendall(REQUEST)
                assert read_response(connection)[0] == 200


@pytest.mark.parametrize("text", ["hi", "x" * 30_000])
def test_requests_in_one_tls_record_are_answered(secure: tuple[RunningService, ssl.SSLContext], text: str) -> None:
    """A request that arrived in the same TLS record as the end of another is answered; no poll would report it."""
    body = json.dumps({**TURN, "input": text}).encode()
    request = head(**{"Content-Length": len(body)}) + body
    # gunicorn reads 8 KiB of a record at once. What is left of it stays in the TLS layer.
    first, rest = request[:-8192], request[-8192:]
    with connected_over_tls(secure) as connection:
        connection.sendall(first)
        connection.sendall(rest + REQUEST)
        received = b""
        while received.count(LAST_CHUNK) < 2:
            piece = connection.recv(65536)
            assert piece
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_turns_are_recorded_before_clients_see_their_end(service: ServiceFactory) -> None:
    """When a client receives the end of a turn, the turn is in the ledger, also under load."""
    running = service(workers=2)
    missing: list[int] = []

    def take_turns() -> None:
        for _ in range(10):
            with connected(running) as connection:
                connection.sendall(REQUEST)
                receive_until(connection, LAST_CHUNK)
                ended.append(1)
                seen = len(ended)
                if recorded(running)["completed"] < seen:
                    missing.append(seen)

    ended: list[int] = []
    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(ended) == 40


def test_refused_request_leaves_its_connection_usable(service: ServiceFactory) -> None:
    """A body that has arrived is consumed, and not mistaken for the next request."""
    running = service(workers=1)
    with connected(running) as connection:
        connection.sendall(head(token="sk-ocm-unknown", **LENGTH) + BODY)
        status, fields, _ = read_response(connection)
        assert (status, fields["connection"]) == (401, "keep-alive")
        connection.sendall(head(token=ALICE, **LENGTH) + BODY)
        assert read_response(connection)[0] == 200


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        pytest.param(LENGTH, BODY[:-1], id="late"),
        pytest.param({"Expect": "100-continue", **LENGTH}, b"", id="awaits-100-continue"),
        pytest.param({"Transfer-Encoding": "chunked"}, b"no chunk\r\n", id="garbage"),
    ],
)
def test_refused_request_announces_that_its_connection_closes(
    service: ServiceFactory, fields: dict[str, object], body: bytes
) -> None:
    """A missing body is not waited for, so the response announces that the connection closes."""
    running = service(workers=1)
    with connected(running) as connection:
        connection.sendall(head(token="sk-ocm-unknown", **fields) + body)
        status, answered, _ = read_response(connection)
        assert (status, answered["connection"]) == (401, "close")
        assert connection.recv(1) == b""
    assert running.simulator.requests == []
