"""Responses over a WebSocket, requested by the ``websockets`` client and with raw bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from ocm_wsgi.simulator import DEFAULT_TEXT, Plan, Simulator
from ocm_wsgi.simulator.shapes import SHAPES
from tests.simulator.simulator_clients import TIMEOUT, dial, owner_fields, read_to_end, read_until, sha256

TARGET = "/backend-api/codex/responses"


@contextmanager
def websocket(
    sim: Simulator, *, fields: dict[str, str] | None = None, compression: str | None = "deflate", base: str = TARGET
) -> Iterator[ClientConnection]:
    sent = owner_fields(sim.credential()) if base == TARGET else {"Authorization": f"Bearer {sim.api_key()}"}
    with open_websocket(
        sim.url.replace("http", "ws", 1) + base,
        additional_headers={**sent, **(fields or {})},
        compression=compression,
        proxy=None,
        max_size=None,
        open_timeout=TIMEOUT,
        close_timeout=1,
    ) as connection:
        yield connection


def ask(connection: ClientConnection, **members: Any) -> list[dict[str, Any]]:
    """Request a response and return its messages, up to the last one."""
    connection.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": [], **members}))
    return answers(connection)


def answers(connection: ClientConnection) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    ends = ("response.completed", "response.incomplete", "response.failed", "error")
    while not messages or messages[-1]["type"] not in ends:
        messages.append(json.loads(connection.recv(TIMEOUT)))
    return messages


def said(messages: list[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in messages if each["type"] == "response.output_text.delta")


@pytest.mark.parametrize("compression", ["deflate", None])
def test_turn_is_sent_in_messages(sim: Simulator, compression: str | None) -> None:
    """A turn has the same events as over HTTP, after a message with the rate limits; compressed if negotiated."""
    with websocket(sim, compression=compression) as connection:
        assert bool(connection.protocol.extensions) == (compression is not None)
        messages = ask(connection, service_tier="priority")
    assert messages[0]["type"] == "codex.rate_limits"
    assert messages[0]["rate_limits"]["primary"]["used_percent"] == 12
    assert messages[1]["type"] == "response.created"
    assert said(messages) == DEFAULT_TEXT
    (turn,) = sim.turns
    assert (turn.transport, turn.service_tier, turn.status, turn.input_tokens) == (
        "websocket",
        "priority",
        "completed",
        1234,
    )


def test_sent_messages_can_be_compared(sim: Simulator) -> None:
    """The journal has the hash of all messages' concatenated text."""
    received: list[bytes] = []
    with websocket(sim) as connection:
        connection.send(json.dumps({"type": "response.create", "model": "m"}))
        while not received or b"response.completed" not in received[-1]:
            received.append(str(connection.recv(TIMEOUT)).encode())
    assert sim.sent[0].body_sha256 == sha256(b"".join(received))


def test_prewarm_then_chained_turns(sim: Simulator) -> None:
    """A prewarm returns an id without recording a turn or taking a plan; later turns refer to it and each other."""
    sim.plan(Plan(text="planned"))
    with websocket(sim) as connection:
        prewarm = ask(connection, generate=False)
        assert (said(prewarm), prewarm[-1]["response"]["usage"]) == ("", None)
        first = ask(connection, previous_response_id=prewarm[-1]["response"]["id"])
        second = ask(connection, previous_response_id=first[-1]["response"]["id"])
    assert (said(first), said(second)) == ("planned", DEFAULT_TEXT)
    assert len(sim.turns) == 2
    assert second[-1]["response"]["previous_response_id"] == first[-1]["response"]["id"]
    assert [create.generates for create in sim.creates] == [False, True, True]
    ids = [each[-1]["response"]["id"] for each in (prewarm, first)]
    assert [create.previous_response_id for create in sim.creates] == [None, *ids]


def test_unknown_previous_response_is_refused(sim: Simulator) -> None:
    """Ids from other connections are unknown."""
    with websocket(sim) as connection:
        known = ask(connection)[-1]["response"]["id"]
    with websocket(sim) as connection:
        (error,) = ask(connection, previous_response_id=known)
        assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
        assert said(ask(connection)) == DEFAULT_TEXT


def test_parameters_of_the_platform_are_refused(sim: Simulator) -> None:
    """Parameters that only the platform supports are refused here too, and the connection stays open."""
    with websocket(sim) as connection:
        (error,) = ask(connection, temperature=0.5)
        assert (error["status"], error["error"]["message"]) == (400, "Unsupported parameter: temperature")
        assert said(ask(connection)) == DEFAULT_TEXT


@pytest.mark.parametrize("message", ["nonsense", "[]", '{"type": "response.cancel"}'])
def test_other_messages_get_an_error(sim: Simulator, message: str) -> None:
    """Messages other than ``response.create`` get an error, and the connection stays open."""
    with websocket(sim) as connection:
        connection.send(message)
        assert answers(connection)[0]["status"] == 400
        assert said(ask(connection)) == DEFAULT_TEXT


@pytest.mark.parametrize("name", ["USAGE_LIMIT_REACHED", "SERVER_IS_OVERLOADED", "WEBSOCKET_CONNECTION_LIMIT_REACHED"])
def test_error_shapes_become_messages(sim: Simulator, name: str) -> None:
    """A plan for an HTTP error becomes an ``error`` message with its status, error and fields."""
    plan = SHAPES[name]
    sim.plan(plan)
    with websocket(sim) as connection:
        (error,) = ask(connection)
    assert (error["status"], error["error"]) == (plan.status, plan.json["error"])
    assert error["headers"]["x-codex-primary-used-percent"] == ("100" if name == "USAGE_LIMIT_REACHED" else "12")
    assert sim.turns == []


def test_error_without_json_still_has_an_error(sim: Simulator) -> None:
    """A plan whose body is not JSON still becomes an error."""
    sim.plan(SHAPES["BAD_GATEWAY"])
    with websocket(sim) as connection:
        (error,) = ask(connection)
    assert (error["status"], error["error"]["type"]) == (502, "server_error")


def test_terminals_end_a_turn(sim: Simulator) -> None:
    """A turn can fail, be incomplete, or end with an ``error`` message."""
    for terminal in ("failed", "incomplete", "error"):
        sim.plan(Plan(terminal=terminal, error=("slow_down", "wait")))
    with websocket(sim) as connection:
        failed, incomplete, error = (ask(connection)[-1] for _ in range(3))
    assert failed["response"]["error"]["code"] == "slow_down"
    assert incomplete["response"]["incomplete_details"]
    assert (error["status"], error["error"]["code"]) == (500, "slow_down")
    assert [turn.status for turn in sim.turns] == ["failed", "incomplete", "failed"]


@pytest.mark.parametrize("name", ["UPGRADE_REQUIRED", "refused"])
def test_opening_handshake_can_be_refused(sim: Simulator, name: str) -> None:
    """A refusal has the planned status, body and fields; the next handshake is accepted."""
    refused = Plan(status=429, json={"error": {"type": "usage_limit_reached"}}, upgrade=True)
    plan = SHAPES.get(name, refused)
    sim.plan(plan)
    with pytest.raises(InvalidStatus) as caught, websocket(sim):
        pass
    response = caught.value.response
    assert (response.status_code, json.loads(response.body or b"")) == (plan.status, plan.json)
    assert response.headers["x-codex-primary-used-percent"] == "12"
    with websocket(sim) as connection:
        assert said(ask(connection)) == DEFAULT_TEXT


def test_opening_handshake_can_have_fields(sim: Simulator) -> None:
    """A plan for the handshake without a status adds fields to the 101."""
    sim.plan(Plan(upgrade=True, fields=[("openai-model", "gpt-x"), ("x-twice", "1"), ("x-twice", "2")]))
    with websocket(sim) as connection:
        assert connection.response is not None
        assert connection.response.headers["openai-model"] == "gpt-x"
        assert connection.response.headers.get_all("x-twice") == ["1", "2"]


def test_opening_handshake_needs_the_owner(sim: Simulator) -> None:
    """Opening a WebSocket requires the owner's token."""
    with pytest.raises(InvalidStatus) as caught, websocket(sim, fields={"ChatGPT-Account-Id": "acct-other"}):
        pass
    assert caught.value.response.status_code == 401


def test_malformed_handshake_is_refused(sim: Simulator) -> None:
    """A handshake without a key is refused by the protocol."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in owner_fields(sim.credential()).items())
    head = f"GET {TARGET} HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n"
    with dial(sim) as sock:
        sock.sendall(head.encode())
        assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("plan", "kind", "code"),
    [
        pytest.param(Plan(cut_after=2), ConnectionClosedError, None, id="dropped"),
        pytest.param(Plan(reset_after=2), ConnectionClosedError, None, id="reset"),
        pytest.param(Plan(cut_after=2, close_code=1000), ConnectionClosedOK, 1000, id="normal"),
        pytest.param(
            Plan(cut_after=2, close_code=1008, close_reason="policy"), ConnectionClosedError, 1008, id="policy"
        ),
    ],
)
def test_connection_ends_as_planned(sim: Simulator, plan: Plan, kind: type[ConnectionClosed], code: int | None) -> None:
    """After the planned event the connection is dropped, reset, or closed with a code; the turn is cut."""
    sim.plan(plan)
    with websocket(sim) as connection:
        with pytest.raises(kind) as caught:
            ask(connection)
        received = caught.value.rcvd
        assert (received.code if received else None) == code
        assert (received.reason if received else "") == plan.close_reason
    assert sim.wait_for(lambda: [turn.status for turn in sim.turns] == ["cut"])


def test_gate_holds_the_next_message(sim: Simulator) -> None:
    """The first event arrives before the second is sent; pings are answered meanwhile."""
    gate = sim.gate().after(1)
    sim.plan(Plan(gate=gate))
    with websocket(sim) as connection:
        connection.send(json.dumps({"type": "response.create", "model": "m"}))
        first = [json.loads(connection.recv(TIMEOUT))["type"] for _ in range(2)]
        assert first == ["codex.rate_limits", "response.created"]
        assert gate.reached.wait(30)
        assert connection.ping().wait(10)
        with pytest.raises(TimeoutError):
            connection.recv(0)
        gate.release()
        assert said(answers(connection)) == DEFAULT_TEXT


def _drop(connection: ClientConnection) -> None:
    connection.socket.shutdown(2)


@pytest.mark.parametrize("leave", [_drop, ClientConnection.close], ids=["drop", "close-frame"])
def test_silence_ends_when_the_client_leaves(sim: Simulator, leave: Callable[[ClientConnection], None]) -> None:
    """A silent turn detects that its client dropped or closed the connection."""
    sim.plan(Plan(silence_after=1))
    with websocket(sim) as connection:
        connection.send(json.dumps({"type": "response.create", "model": "m"}))
        connection.recv(TIMEOUT)
        assert sim.wait_for(lambda: sim.open_streams == 1)
        leave(connection)
        assert sim.wait_for(lambda: sim.open_streams == 0)
    assert [turn.status for turn in sim.turns] == ["cut"]


def test_messages_may_be_fragmented_and_binary_is_refused(sim: Simulator) -> None:
    """A message in several frames is one message; a binary one closes with 1003."""
    with websocket(sim) as connection:
        connection.send(iter(['{"type": "response', '.create", "model"', ': "m"}']))
        assert said(answers(connection)) == DEFAULT_TEXT
        connection.send(b"binary")
        with pytest.raises(ConnectionClosedError) as caught:
            connection.recv(TIMEOUT)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1003


def test_large_messages_pass(sim: Simulator) -> None:
    """Messages of several megabytes pass in both directions, and as many small ones."""
    sim.plan(Plan(text="word " * 200_000, events=3))
    sim.plan(Plan(events=2000, event_bytes=100))
    with websocket(sim) as connection:
        assert len(said(ask(connection, padding="x" * 3_000_000))) == 1_000_000
        assert len(ask(connection)) == 2000 + 9


def test_plan_with_the_handshake_is_for_every_turn(sim: Simulator) -> None:
    """The plan in the handshake's field applies to all turns on the connection, but not to the handshake."""
    with websocket(sim, fields={"X-Simulate": '{"text": "mine", "interval": 0.001}'}) as connection:
        assert [said(ask(connection)) for _ in range(2)] == ["mine", "mine"]


def test_platform_has_websockets_without_rate_limits(sim: Simulator) -> None:
    """The platform's WebSocket has no ``codex.rate_limits``."""
    with websocket(sim, base="/v1/responses") as connection:
        assert ask(connection)[0]["type"] == "response.created"
    assert sim.turns[0].account == "api"


def test_stop_ends_idle_and_silent_websockets() -> None:
    """Stopping ends idle and blocked WebSockets immediately."""
    sim = Simulator().start()
    sim.plan(Plan(silence_after=1))
    with websocket(sim) as idle, websocket(sim) as silent:
        silent.send(json.dumps({"type": "response.create", "model": "m"}))
        assert sim.wait_for(lambda: sim.open_streams == 1)
        stopper = threading.Thread(target=sim.stop)
        stopper.start()
        stopper.join(5)
        assert not stopper.is_alive()
        with pytest.raises(ConnectionClosedError):
            idle.recv(TIMEOUT)


def test_upgrade_needs_both_fields(sim: Simulator) -> None:
    """A GET without an upgrade is handled like any other."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in owner_fields(sim.credential()).items())
    with dial(sim) as sock:
        sock.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: s\r\nUpgrade: websocket\r\n{fields}\r\n".encode())
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 404 ")
