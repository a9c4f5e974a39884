"""WebSockets through the real service: a real client on one side, the simulator on the other."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ocm_wsgi.simulator import Plan
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.faults.stack import GONE_SECONDS
from tests.relay.test_live import poll, secure  # noqa: F401 - a fixture
from tests.websocket_peers import Peer

TIMEOUT = 30.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
COMPRESSIONS = pytest.mark.parametrize("compression", ["deflate", None])


@contextmanager
def open_websocket(
    running: RunningService,
    token: str = ALICE,
    compression: str | None = None,
    context: ssl.SSLContext | None = None,
    fields: Mapping[str, str] | None = None,
) -> Iterator[ClientConnection]:
    """Open a WebSocket through the service."""
    host, port = running.address
    with connect(
        f"{'wss' if context else 'ws'}://{host}:{port}/v1/responses",
        ssl=context,
        compression=compression,
        proxy=None,
        additional_headers={"Authorization": f"Bearer {token}", **(fields or {})},
        close_timeout=5,
    ) as client:
        yield client


def start_turn(client: ClientConnection, **members: Any) -> None:
    """Send the message that starts a turn."""
    client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": [], **members}))


def receive_turn(client: ClientConnection) -> list[bytes]:
    """Return the messages of a turn, up to its end."""
    received: list[bytes] = []
    while not received or json.loads(received[-1])["type"] not in ("response.completed", "error"):
        received.append(str(client.recv(TIMEOUT)).encode())
    return received


def run_turn(client: ClientConnection, **members: Any) -> list[bytes]:
    """Start a turn and return its messages."""
    start_turn(client, **members)
    return receive_turn(client)


def recorded_turns(running: RunningService) -> list[tuple[str, str, str]]:
    """Return the user, transport and status of each turn in the ledger."""
    columns = (db.turn.c.user, db.turn.c.transport, db.turn.c.status)
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(db.turn.c.started_at))]


@COMPRESSIONS
def test_turns_are_relayed_unchanged(service: ServiceFactory, compression: str | None) -> None:
    """A prewarm and the turns that continue it arrive as upstream sent them; each real turn is recorded once."""
    running = service(workers=1)
    with open_websocket(running, compression=compression) as client:
        received = run_turn(client, generate=False)
        for size in (10, 300_000, 1000):
            previous = json.loads(received[-1])["response"]["id"]
            received += run_turn(client, previous_response_id=previous, input=[{"text": "x" * size}])
            assert len(recorded_turns(running)) == len(running.simulator.turns)
    assert running.simulator.sent[0].body_sha256 == hashlib.sha256(b"".join(received)).hexdigest()
    assert recorded_turns(running) == [("alice", "websocket", "completed")] * 3
    (handshake,) = running.simulator.requests
    assert ALICE not in (handshake.field("authorization") or "")


def test_turns_of_two_users(service: ServiceFactory) -> None:
    """Each turn is recorded once, for the user who sent it."""
    running = service(workers=2)
    with open_websocket(running) as alice, open_websocket(running, BOB) as bob:
        for _ in range(3):
            start_turn(alice)
            start_turn(bob)
            receive_turn(alice)
            receive_turn(bob)
    assert sorted(recorded_turns(running)) == [
        (name, "websocket", "completed") for name in ("alice",) * 3 + ("bob",) * 3
    ]


def test_refused_handshake_is_relayed(service: ServiceFactory) -> None:
    """The client gets upstream's status, fields and body."""
    running = service(workers=1)
    refusal = ("rate_limit_exceeded", "Too many.")
    running.simulator.plan(Plan(upgrade=True, status=429, fields=(("x-custom", "yes"),), error=refusal))
    with pytest.raises(InvalidStatus) as refused, open_websocket(running):
        pass
    response = refused.value.response
    assert (response.status_code, response.headers["x-custom"]) == (429, "yes")
    assert json.loads(response.body or b"")["error"]["message"] == "Too many."


def test_rejected_credential_is_refreshed(service: ServiceFactory) -> None:
    """A 401 from upstream makes the service refresh its credential, and the client does not notice."""
    running = service(workers=1)
    running.simulator.expire()
    with open_websocket(running) as client:
        run_turn(client)
    assert len(running.simulator.refreshes) == 1


def test_invalid_handshake_is_refused(service: ServiceFactory) -> None:
    """An invalid opening handshake is refused and never sent upstream."""
    running = service(workers=1)
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    headers = {**fields, "Authorization": f"Bearer {ALICE}"}
    assert requests.get(f"{running.url}/v1/responses", headers=headers, timeout=TIMEOUT).status_code == 400
    assert running.simulator.requests == []


@pytest.mark.parametrize(
    "fields", ["Upgrade: h2c", "Upgrade: websocket\r\nSec-WebSocket-Extensions: x-other"], ids=["protocol", "extension"]
)
def test_unsupported_upgrade_is_refused(service: ServiceFactory, fields: str) -> None:
    """If upstream switches to an unsupported protocol, the client gets a 502 and upstream is disconnected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        running = service(workers=1, chatgpt_base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/codex")
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(handshake_refused, running)
            upstream, _ = listener.accept()
            with upstream:
                upstream.settimeout(TIMEOUT)
                assert upstream.recv(65536).startswith(b"GET /codex/responses HTTP/1.1\r\n")
                upstream.sendall(f"HTTP/1.1 101 Other\r\nConnection: Upgrade\r\n{fields}\r\n\r\n".encode())
                assert upstream.recv(1) == b""
            assert refused.result(TIMEOUT) == 502


def handshake_refused(running: RunningService) -> int:
    """Try to open a WebSocket, and return the status of the refusal."""
    with pytest.raises(InvalidStatus) as refused, open_websocket(running):
        pass
    return refused.value.response.status_code


@COMPRESSIONS
def test_upstream_close_is_relayed(service: ServiceFactory, compression: str | None) -> None:
    """Upstream's messages arrive, then its close code and reason; the turn is recorded as cut."""
    running = service(workers=1)
    running.simulator.plan(Plan(cut_after=2, close_code=1013, close_reason="try again later"))
    with open_websocket(running, compression=compression) as client:
        start_turn(client)
        with pytest.raises(ConnectionClosed, match="try again later") as closed:
            receive_turn(client)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    poll(lambda: recorded_turns(running) == [("alice", "websocket", "cut")])


def test_upstream_disconnect_is_relayed(service: ServiceFactory) -> None:
    """If upstream disconnects without a Close frame, so does the service."""
    running = service(workers=1)
    running.simulator.plan(Plan(cut_after=2))
    with open_websocket(running) as client:
        start_turn(client)
        with pytest.raises(ConnectionClosedError) as closed:
            receive_turn(client)
    assert closed.value.rcvd is None
    poll(lambda: recorded_turns(running) == [("alice", "websocket", "cut")])


def test_client_close_is_relayed(service: ServiceFactory) -> None:
    """A client that sends a Close frame gets upstream's reply, and no disconnect is logged."""
    running = service(workers=1)
    with open_websocket(running) as client:
        run_turn(client)
        client.close(1000, "done")
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.code == 1000
    poll(lambda: "GET /v1/responses 101" in running.log_text())
    assert "client left" not in running.log_text()


def test_client_disconnect_closes_upstream(service: ServiceFactory) -> None:
    """Upstream is disconnected within a second even while it is silent, and the turn is recorded as cut."""
    running = service(workers=1)
    running.simulator.plan(Plan(silence_after=1))
    with open_websocket(running) as client:
        start_turn(client)
        client.recv(TIMEOUT)
        client.socket.shutdown(socket.SHUT_RDWR)
    assert running.simulator.wait_for(lambda: running.simulator.open_connections == 0, GONE_SECONDS)
    poll(lambda: recorded_turns(running) == [("alice", "websocket", "cut")])


@COMPRESSIONS
def test_limits_are_enforced(service: ServiceFactory, compression: str | None) -> None:
    """A user who has reached their limit gets an error at the next turn, which is never sent upstream.

    A client that compresses has to reconnect: upstream could not decompress the messages that follow.
    """
    user = {"name": "alice", "token": ALICE, "limits": [{"per": "month", "requests": 1}]}
    running = service(workers=1, user_entries=[user])
    with open_websocket(running, compression=compression) as client:
        run_turn(client)
        error = json.loads(run_turn(client)[-1])
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        if compression is None:
            assert json.loads(run_turn(client)[-1]) == error
        else:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
    assert len(running.simulator.turns) == 1


def test_slots_are_released(service: ServiceFactory) -> None:
    """A user limited to one turn at a time can start the next as soon as the last one has ended."""
    running = service(workers=1, user_entries=[{"name": "alice", "token": ALICE, "max_concurrent": 1}])
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with open_websocket(running) as first, open_websocket(running) as second:
        start_turn(first)
        assert gate.reached.wait(TIMEOUT)
        assert json.loads(run_turn(second)[-1])["error"]["code"] == "too_many_concurrent"
        gate.release()
        receive_turn(first)
        for client in (second, first, second):
            assert json.loads(run_turn(client)[-1])["type"] == "response.completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_websockets_are_closed_between_turns(service: ServiceFactory, number: signal.Signals) -> None:
    """At a stop or reload, idle WebSockets are closed with 1001; open turns complete first and are recorded."""
    running = service(workers=1)
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with open_websocket(running) as busy, open_websocket(running) as idle:
        start_turn(busy)
        assert gate.reached.wait(TIMEOUT)
        running.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        gate.release()
        assert json.loads(receive_turn(busy)[-1])["type"] == "response.completed"
        with pytest.raises(ConnectionClosed):
            busy.recv(TIMEOUT)
    assert recorded_turns(running) == [("alice", "websocket", "completed")]


def test_websockets_are_cut_at_the_end_of_the_grace_period(service: ServiceFactory) -> None:
    """A turn that does not end delays a stop by the grace period, and is recorded as cut."""
    running = service(workers=1, arguments=("--graceful-timeout", "2"))
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with open_websocket(running) as client:
        start_turn(client)
        assert gate.reached.wait(TIMEOUT)
        assert running.stop() == 0
        with pytest.raises(ConnectionClosedError):
            receive_turn(client)
    assert recorded_turns(running) == [("alice", "websocket", "cut")]


def test_second_interrupt_cuts_websockets(service: ServiceFactory) -> None:
    """The first Ctrl-C lets turns complete; a second one cuts the remaining turns and records them."""
    running = service(workers=1)
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with open_websocket(running) as client, open_websocket(running) as idle:
        start_turn(client)
        assert gate.reached.wait(TIMEOUT)
        os.killpg(running.pid, signal.SIGINT)
        with pytest.raises(ConnectionClosed):
            idle.recv(TIMEOUT)
        # A signal within a second of the first is taken for the same Ctrl-C, forwarded by the master.
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(1.2)
        os.killpg(running.pid, signal.SIGINT)
        assert running.process.wait(TIMEOUT) == 0
        with pytest.raises(ConnectionClosedError):
            receive_turn(client)
    assert recorded_turns(running) == [("alice", "websocket", "cut")]


def test_data_sent_with_the_handshake(service: ServiceFactory) -> None:
    """A client that sends a turn without waiting for the handshake's response is served."""
    running = service(workers=1)
    handshake = (
        "GET /v1/responses HTTP/1.1\r\nHost: ocm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nAuthorization: Bearer {ALICE}\r\n\r\n"
    )
    create = Peer(is_client=True).text(b'{"type":"response.create","model":"gpt-5.5","input":[]}')
    with socket.create_connection(running.address, TIMEOUT) as client:
        client.sendall(handshake.encode() + create[:20])
        client.sendall(create[20:])
        received = b""
        while b"response.completed" not in received:
            data = client.recv(65536)
            assert data
            received += data
    assert received.startswith(b"HTTP/1.1 101 ")
    assert recorded_turns(running) == [("alice", "websocket", "completed")]


def test_removed_user_is_refused(service: ServiceFactory) -> None:
    """A user who was removed after the handshake gets an error at the next turn; others continue."""
    running = service(workers=1)
    accounts = Accounts([], Database(f"sqlite:///{running.state_path / 'ocm.db'}"))
    with open_websocket(running) as others:
        run_turn(others)
        token = accounts.add(User("carol"), actor="cli")
        with open_websocket(running, token) as client:
            run_turn(client)
            accounts.remove("carol", actor="cli")
            error = json.loads(run_turn(client)[-1])
        assert (error["status"], error["error"]["code"]) == (401, "invalid_bearer_token")
        run_turn(others)
    assert len(running.simulator.turns) == 3


def test_tls_on_both_sides(secure: tuple[RunningService, ssl.SSLContext]) -> None:  # noqa: F811 - the fixture
    """Small and large messages are relayed unchanged over TLS, and a slow reader delays only its own upstream."""
    running, context = secure
    # See Nginx.threads_tls: this client, too, receives in one thread and sends in another.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    running.simulator.clear()
    running.simulator.plan(Plan(events=40, event_bytes=500_000))
    with (
        open_websocket(running, context=context, compression="deflate") as client,
        open_websocket(running, context=context) as other,
    ):
        start_turn(client, input=[{"text": os.urandom(2_500_000).hex()}])
        received = [str(client.recv(TIMEOUT)).encode()]
        run_turn(other)
        received += receive_turn(client)
    digest = hashlib.sha256(b"".join(received)).hexdigest()
    assert digest in [sent.body_sha256 for sent in running.simulator.sent]
    assert recorded_turns(running)[-2:] == [("alice", "websocket", "completed")] * 2
