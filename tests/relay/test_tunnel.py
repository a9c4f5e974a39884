"""WebSockets through the real service: a real client on one side, the simulator on the other."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
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
BOTH = pytest.mark.parametrize("compression", ["deflate", None])


@contextmanager
def through(
    running: RunningService,
    token: str = ALICE,
    compression: str | None = None,
    context: ssl.SSLContext | None = None,
) -> Iterator[ClientConnection]:
    """A WebSocket through the service."""
    host, port = running.address
    with connect(
        f"{'wss' if context else 'ws'}://{host}:{port}/v1/responses",
        ssl=context,
        compression=compression,
        proxy=None,
        additional_headers={"Authorization": f"Bearer {token}"},
        close_timeout=5,
    ) as client:
        yield client


def say(client: ClientConnection, **members: Any) -> None:
    """Ask for a turn."""
    client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": [], **members}))


def hear(client: ClientConnection) -> list[bytes]:
    """The messages of a turn, to its end."""
    said: list[bytes] = []
    while not said or json.loads(said[-1])["type"] not in ("response.completed", "error"):
        said.append(str(client.recv(TIMEOUT)).encode())
    return said


def ask(client: ClientConnection, **members: Any) -> list[bytes]:
    """Ask for a turn and return its messages."""
    say(client, **members)
    return hear(client)


def records(running: RunningService) -> list[tuple[str, str, str]]:
    """User, transport and status of the turns in the ledger."""
    columns = (db.turn.c.user, db.turn.c.transport, db.turn.c.status)
    with Database(f"sqlite:///{running.state_path / 'ocm.db'}").read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(db.turn.c.started_at))]


@BOTH
def test_turns_pass_unchanged(service: ServiceFactory, compression: str | None) -> None:
    """A prewarm and the turns that go on from it arrive as they were said; each real turn is recorded once."""
    running = service(workers=1)
    with through(running, compression=compression) as client:
        said = ask(client, generate=False)
        for size in (10, 300_000, 1000):
            previous = json.loads(said[-1])["response"]["id"]
            said += ask(client, previous_response_id=previous, input=[{"text": "x" * size}])
            assert len(records(running)) == len(running.simulator.turns)
    assert running.simulator.sent[0].body_sha256 == hashlib.sha256(b"".join(said)).hexdigest()
    assert records(running) == [("alice", "websocket", "completed")] * 3
    (handshake,) = running.simulator.requests
    assert ALICE not in (handshake.field("authorization") or "")


def test_turns_of_two_users(service: ServiceFactory) -> None:
    """Turns are recorded for who asked, and once."""
    running = service(workers=2)
    with through(running) as alice, through(running, BOB) as bob:
        for _ in range(3):
            say(alice)
            say(bob)
            hear(alice)
            hear(bob)
    assert sorted(records(running)) == [(name, "websocket", "completed") for name in ("alice",) * 3 + ("bob",) * 3]


def test_refused_handshake_is_passed_back(service: ServiceFactory) -> None:
    """The client sees upstream's own status, fields and body."""
    running = service(workers=1)
    refusal = ("rate_limit_exceeded", "Too many.")
    running.simulator.plan(Plan(upgrade=True, status=429, fields=(("x-kept", "yes"),), error=refusal))
    with pytest.raises(InvalidStatus) as refused, through(running):
        pass
    response = refused.value.response
    assert (response.status_code, response.headers["x-kept"]) == (429, "yes")
    assert json.loads(response.body or b"")["error"]["message"] == "Too many."


def test_rejected_credential_is_refreshed(service: ServiceFactory) -> None:
    """A 401 from upstream concerns the service only: it refreshes its credential, and the client does not notice."""
    running = service(workers=1)
    running.simulator.expire()
    with through(running) as client:
        ask(client)
    assert len(running.simulator.refreshes) == 1


def test_broken_handshake_is_refused(service: ServiceFactory) -> None:
    """An invalid opening handshake is refused here and never sent upstream."""
    running = service(workers=1)
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    headers = {**fields, "Authorization": f"Bearer {ALICE}"}
    assert requests.get(f"{running.url}/v1/responses", headers=headers, timeout=TIMEOUT).status_code == 400
    assert running.simulator.requests == []


@pytest.mark.parametrize(
    "fields", ["Upgrade: h2c", "Upgrade: websocket\r\nSec-WebSocket-Extensions: x-other"], ids=["protocol", "extension"]
)
def test_unknown_answer_is_refused(service: ServiceFactory, fields: str) -> None:
    """Where upstream switches to something that cannot be read the client gets a 502, and upstream is let go."""
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
    """Ask for a WebSocket, and return the status of the refusal."""
    with pytest.raises(InvalidStatus) as refused, through(running):
        pass
    return refused.value.response.status_code


@BOTH
def test_close_of_upstream_is_passed_on(service: ServiceFactory, compression: str | None) -> None:
    """Upstream's code and reason arrive, behind what it said before; the turn is recorded as cut."""
    running = service(workers=1)
    running.simulator.plan(Plan(cut_after=2, close_code=1013, close_reason="try again later"))
    with through(running, compression=compression) as client:
        say(client)
        with pytest.raises(ConnectionClosed, match="try again later") as closed:
            hear(client)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    poll(lambda: records(running) == [("alice", "websocket", "cut")])


def test_drop_of_upstream_is_passed_on(service: ServiceFactory) -> None:
    """Where upstream goes without a word, so does the service."""
    running = service(workers=1)
    running.simulator.plan(Plan(cut_after=2))
    with through(running) as client:
        say(client)
        with pytest.raises(ConnectionClosedError) as closed:
            hear(client)
    assert closed.value.rcvd is None
    poll(lambda: records(running) == [("alice", "websocket", "cut")])


def test_close_of_client_is_passed_on(service: ServiceFactory) -> None:
    """A client that says goodbye gets upstream's own answer to it, and the log has nothing to complain of."""
    running = service(workers=1)
    with through(running) as client:
        ask(client)
        client.close(1000, "done")
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.code == 1000
    poll(lambda: "GET /v1/responses 101" in running.log_text())
    assert "client left" not in running.log_text()


def test_client_that_vanishes_frees_upstream(service: ServiceFactory) -> None:
    """Upstream is let go within a second, though it was silent, and the turn is recorded as cut."""
    running = service(workers=1)
    running.simulator.plan(Plan(silence_after=1))
    with through(running) as client:
        say(client)
        client.recv(TIMEOUT)
        client.socket.shutdown(socket.SHUT_RDWR)
    assert running.simulator.wait_for(lambda: running.simulator.open_connections == 0, GONE_SECONDS)
    poll(lambda: records(running) == [("alice", "websocket", "cut")])


@BOTH
def test_limits_are_kept(service: ServiceFactory, compression: str | None) -> None:
    """A user who has reached their limit gets an error at the next turn, which is never sent upstream.

    Who compresses has to come again: upstream could not decompress what follows.
    """
    user = {"name": "alice", "token": ALICE, "limits": [{"per": "month", "requests": 1}]}
    running = service(workers=1, user_entries=[user])
    with through(running, compression=compression) as client:
        ask(client)
        error = json.loads(ask(client)[-1])
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        if compression is None:
            assert json.loads(ask(client)[-1]) == error
        else:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
    assert len(running.simulator.turns) == 1


def test_slots_are_given_back(service: ServiceFactory) -> None:
    """Of a user with one turn at once the next may begin as soon as the last has been seen to end."""
    running = service(workers=1, user_entries=[{"name": "alice", "token": ALICE, "max_concurrent": 1}])
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with through(running) as first, through(running) as second:
        say(first)
        assert gate.reached.wait(TIMEOUT)
        assert json.loads(ask(second)[-1])["error"]["code"] == "too_many_concurrent"
        gate.release()
        hear(first)
        for client in (second, first, second):
            assert json.loads(ask(client)[-1])["type"] == "response.completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sockets_end_between_turns(service: ServiceFactory, number: signal.Signals) -> None:
    """At a stop and a reload idle sockets are closed with 1001, open turns end first, and all are recorded."""
    running = service(workers=1)
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with through(running) as busy, through(running) as idle:
        say(busy)
        assert gate.reached.wait(TIMEOUT)
        running.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        gate.release()
        assert json.loads(hear(busy)[-1])["type"] == "response.completed"
        with pytest.raises(ConnectionClosed):
            busy.recv(TIMEOUT)
    assert records(running) == [("alice", "websocket", "completed")]


def test_sockets_are_cut_at_the_end_of_the_grace_period(service: ServiceFactory) -> None:
    """A turn that does not end holds a stop up for so long, and is recorded as cut."""
    running = service(workers=1, arguments=("--graceful-timeout", "2"))
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with through(running) as client:
        say(client)
        assert gate.reached.wait(TIMEOUT)
        assert running.stop() == 0
        with pytest.raises(ConnectionClosedError):
            hear(client)
    assert records(running) == [("alice", "websocket", "cut")]


def test_a_second_interrupt_cuts_sockets(service: ServiceFactory) -> None:
    """The first Ctrl-C lets turns end; another one, by someone in a hurry, cuts what is left and records it."""
    running = service(workers=1)
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with through(running) as client, through(running) as idle:
        say(client)
        assert gate.reached.wait(TIMEOUT)
        os.killpg(running.pid, signal.SIGINT)
        with pytest.raises(ConnectionClosed):
            idle.recv(TIMEOUT)
        # What comes within a second of the first is the same Ctrl-C, by way of the master.
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(1.2)
        os.killpg(running.pid, signal.SIGINT)
        assert running.process.wait(TIMEOUT) == 0
        with pytest.raises(ConnectionClosedError):
            hear(client)
    assert records(running) == [("alice", "websocket", "cut")]


def test_octets_behind_the_handshake(service: ServiceFactory) -> None:
    """A client that does not wait for the answer to its handshake has what it said served all the same."""
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
    assert records(running) == [("alice", "websocket", "completed")]


def test_revoked_user_is_stopped(service: ServiceFactory) -> None:
    """A user who was removed since the handshake gets an error at the next turn; others continue."""
    running = service(workers=1)
    accounts = Accounts([], Database(f"sqlite:///{running.state_path / 'ocm.db'}"))
    with through(running) as others:
        ask(others)
        token = accounts.add(User("carol"), actor="cli")
        with through(running, token) as client:
            ask(client)
            accounts.remove("carol", actor="cli")
            error = json.loads(ask(client)[-1])
        assert (error["status"], error["error"]["code"]) == (401, "invalid_bearer_token")
        ask(others)
    assert len(running.simulator.turns) == 3


def test_tls_on_both_sides(secure: tuple[RunningService, ssl.SSLContext]) -> None:  # noqa: F811 - the fixture
    """Under TLS the same octets pass, small and large, and a slow reader holds up its own upstream only."""
    running, context = secure
    running.simulator.clear()
    running.simulator.plan(Plan(events=40, event_bytes=500_000))
    with through(running, context=context, compression="deflate") as client, through(running, context=context) as other:
        say(client, input=[{"text": "y" * 5_000_000}])
        said = [str(client.recv(TIMEOUT)).encode()]
        ask(other)
        said += hear(client)
    whole = hashlib.sha256(b"".join(said)).hexdigest()
    assert whole in [sent.body_sha256 for sent in running.simulator.sent]
    assert records(running)[-2:] == [("alice", "websocket", "completed")] * 2
