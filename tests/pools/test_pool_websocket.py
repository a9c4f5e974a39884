"""WebSockets of a pool: opened with an account that can be used, and opened again with another when it is used up."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from ocm_wsgi.simulator import Gate, Plan, Simulator
from ocm_wsgi.simulator.shapes import usage_limit_reached
from tests.conftest import BOB, ServiceFactory
from tests.pools.test_accounts import windows
from tests.pools.test_pool import rows, served, start
from tests.relay.test_tunnel import TIMEOUT, open_websocket, receive_turn, run_turn, start_turn

SESSION = {"session-id": "s1"}


def last(messages: list[bytes]) -> Any:
    """Return the last message of a turn."""
    return json.loads(messages[-1])


def is_closed(client: ClientConnection) -> bool:
    """Wait until the service has closed a WebSocket."""
    with pytest.raises(ConnectionClosed):
        client.recv(TIMEOUT)
    return True


def test_a_refused_handshake_goes_to_the_next_account(service: ServiceFactory, simulator: Simulator) -> None:
    """And the other WebSockets of its conversation, too."""
    running = start(service, "ab", strategy="round-robin")
    refusal = replace(usage_limit_reached(resets_at=int(time.time()) + 1000), upgrade=True)
    simulator.plan(refusal, account="acct-a")
    for _ in range(2):
        with open_websocket(running, fields=SESSION) as client:
            assert last(run_turn(client))["type"] == "response.completed"
    assert served(simulator) == "bb"
    assert rows(running) == [("b", 200)] * 2


def test_a_handshake_that_all_refuse(service: ServiceFactory, simulator: Simulator) -> None:
    """Gets the error of HTTP, with the earliest reset."""
    running = start(service, "ab")
    now = int(time.time())
    for tag, seconds in (("a", 3000), ("b", 1000)):
        refusal = replace(usage_limit_reached(resets_at=now + seconds), upgrade=True)
        simulator.plan(refusal, account=f"acct-{tag}", times=2)
    with pytest.raises(InvalidStatus) as refused, open_websocket(running):
        pass
    response = refused.value.response
    assert response.status_code == 429
    assert response.body is not None
    assert json.loads(response.body)["error"]["resets_at"] == now + 1000


@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_limit_within_a_websocket(service: ServiceFactory, simulator: Simulator, compression: str | None) -> None:
    """The client is asked to open another one, as Codex does, which another account serves."""
    running = start(service, "ab", strategy="round-robin")
    with open_websocket(running, compression=compression, fields=SESSION) as client:
        assert last(run_turn(client))["type"] == "response.completed"
        simulator.plan(usage_limit_reached(resets_at=int(time.time()) + 1000), account="acct-a")
        error = last(run_turn(client))
        assert (error["status"], error["error"]["code"]) == (400, "websocket_connection_limit_reached")
        assert is_closed(client)
    with open_websocket(running, compression=compression, fields=SESSION) as client:
        assert last(run_turn(client))["type"] == "response.completed"
    assert served(simulator) == "ab"
    assert rows(running) == [("a", 200), ("a", 429), ("b", 200)]


def test_the_turn_that_uses_an_account_up_is_finished(service: ServiceFactory, simulator: Simulator) -> None:
    """Only the one after it goes to another account, by another WebSocket."""
    running = start(service, "ab", strategy="fallback")
    with open_websocket(running, fields=SESSION) as client:
        gate = Gate().after(1)
        simulator.plan(Plan(rate_limits=windows(99, 10), gate=gate), account="acct-a")
        start_turn(client)
        assert gate.reached.wait(TIMEOUT)
        gate.release()
        assert last(receive_turn(client))["type"] == "response.completed"
        error = last(run_turn(client))
        assert (error["status"], error["error"]["code"]) == (400, "websocket_connection_limit_reached")
    with open_websocket(running, fields=SESSION) as client:
        assert last(run_turn(client))["type"] == "response.completed"
    assert served(simulator) == "ab"
    assert rows(running) == [("a", 200), ("b", 200)]


def test_a_websocket_learns_when_all_are_used_up(service: ServiceFactory, simulator: Simulator) -> None:
    """Upstream's own 429 passes if no other account can be used; later turns are refused without asking upstream."""
    running = start(service, "a")
    resets_at = int(time.time()) + 1000
    with open_websocket(running) as client:
        simulator.plan(usage_limit_reached(resets_at=resets_at), account="acct-a")
        error = last(run_turn(client))
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        error = last(run_turn(client))
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        assert error["error"]["resets_at"] == resets_at
    assert len(rows(running)) == 1


def test_sockets_of_two_conversations(service: ServiceFactory, simulator: Simulator) -> None:
    """Each stays with its account, apart from those of other users."""
    running = start(service, "ab", strategy="round-robin", workers=2)
    for fields in (SESSION, {"session-id": "s2"}, SESSION):
        with open_websocket(running, fields=fields) as client:
            assert last(run_turn(client))["type"] == "response.completed"
    assert served(simulator) == "aba"
    with open_websocket(running, BOB, fields={"session-id": "s2"}) as client:
        assert last(run_turn(client))["type"] == "response.completed"
    assert served(simulator) == "abaa"


def test_turns_in_progress_count(service: ServiceFactory, simulator: Simulator) -> None:
    """An account on which a turn is in progress is used less."""
    running = start(service, "ab")
    simulator.account_rate_limits["acct-a"] = windows(0, 0)
    with open_websocket(running) as client:
        gate = Gate().after(1)
        simulator.plan(Plan(gate=gate), account="acct-a")
        start_turn(client)
        assert gate.reached.wait(TIMEOUT)
        with open_websocket(running) as other:
            assert last(run_turn(other))["type"] == "response.completed"
        gate.release()
        receive_turn(client)
    assert served(simulator) == "ba"


def test_a_websocket_shows_the_windows_of_all(service: ServiceFactory, simulator: Simulator) -> None:
    """In the messages from which Codex learns them, even if it offers compression. Other limits are left out."""
    running = start(service, "ab", strategy="round-robin")
    simulator.account_rate_limits["acct-a"] = windows(10, 40, plan="pro")
    simulator.account_rate_limits["acct-b"] = windows(32, 18)
    for compression in (None, "deflate"):
        with open_websocket(running, compression=compression) as client:
            messages = [json.loads(message) for message in run_turn(client)]
    (limits,) = [message for message in messages if message["type"] == "codex.rate_limits"]
    # As in the fields: caps of 99, and the pro plan counts ten times.
    shown = limits["rate_limits"]
    assert (shown["primary"]["used_percent"], shown["secondary"]["used_percent"]) == (13.0, 39.0)
    assert (shown["primary"]["window_minutes"], shown["secondary"]["window_minutes"]) == (300, 10080)
    assert shown["primary"]["reset_at"] > time.time()
    assert (limits["plan_type"], limits["credits"]) == ("business", None)
    assert messages[-1]["type"] == "response.completed"
    simulator.account_rate_limits["acct-a"] = {**windows(77, 78), "metered_limit_name": "codex_other"}
    with open_websocket(running) as client:
        messages = [json.loads(message) for message in run_turn(client)]
    assert served(simulator) == "aba"
    assert [message for message in messages if message["type"] == "codex.rate_limits"] == []
