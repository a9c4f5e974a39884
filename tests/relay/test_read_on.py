"""Answers of users with limits are read on when their clients leave, within bounds."""

from __future__ import annotations

import json
import socket

import pytest

from ocm_wsgi.relay.read_on import ReadOns
from ocm_wsgi.simulator import Gate, Plan
from tests.accounting.test_estimates_live import INPUT, TEXT, exact, opened, post, read_until, request, rows, words
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.relay.test_tunnel import TIMEOUT, open_websocket, start_turn

LIMITED = {"name": "alice", "token": ALICE, "limits": [{"per": "month", "tokens": 10**9}]}
USAGE = exact(request(), words(TEXT))


@pytest.fixture
def running(service: ServiceFactory) -> RunningService:
    """Start a service with Alice, who has limits, and Bob, who has none."""
    return service(workers=1, user_entries=[LIMITED, {"name": "bob", "token": BOB}])


def leave_before_the_end(running: RunningService, token: str = ALICE) -> Gate:
    """Read an answer except for its terminal event, and leave; return the gate that upstream waits at."""
    gate = Gate().after(4 + len(words(TEXT)))
    running.simulator.plan(Plan(text=TEXT, counts=True, gate=gate))
    with opened(running, request(), token=token) as connection:
        read_until(connection, b'"delta":"moves."')
        assert gate.reached.wait(TIMEOUT)
    return gate


def test_true_count(running: RunningService) -> None:
    """A user with limits is charged what upstream counted, though the client had left; others are charged at once."""
    gate = leave_before_the_end(running, BOB)
    (bob,) = rows(running, 1)
    gate.release()
    gate = leave_before_the_end(running)
    # The service has noticed that the client left once it serves another request.
    assert post(running, request(), token=BOB).ok
    assert len(rows(running, 2)) == 2
    gate.release()
    alice = next(row for row in rows(running, 3) if row.user == "alice")
    assert (bob.status, bob.estimated) == ("cut", True)
    assert (alice.status, alice.estimated) == ("completed", False)
    assert (alice.input_tokens, alice.output_tokens) == (USAGE["input_tokens"], USAGE["output_tokens"])
    (line,) = running.log_lines(" alice POST")
    assert f"completed {alice.input_tokens}+{alice.output_tokens} tokens" in line
    assert "client left" in line


@pytest.mark.parametrize("compression", ["deflate", None])
def test_true_count_over_a_websocket(running: RunningService, compression: str | None) -> None:
    """The turns that are open on a WebSocket are read on, too."""
    gate = Gate().after(4 + len(words(TEXT)))
    running.simulator.plan(Plan(text=TEXT, counts=True, gate=gate))
    with open_websocket(running, compression=compression) as client:
        start_turn(client, input=INPUT)
        while json.loads(client.recv(TIMEOUT)).get("delta") != "moves.":
            pass
        assert gate.reached.wait(TIMEOUT)
        client.socket.shutdown(socket.SHUT_RDWR)
    assert post(running, request(), token=BOB).ok
    assert len(rows(running, 1)) == 1
    gate.release()
    row = next(row for row in rows(running, 2) if row.user == "alice")
    assert (row.status, row.estimated) == ("completed", False)
    assert row.output_tokens == USAGE["output_tokens"]


@pytest.mark.slow
def test_end_of_patience(running: RunningService) -> None:
    """An answer that does not end within some seconds is charged an estimate, and closed; so is one at the shutdown."""
    gate = leave_before_the_end(running)
    (row,) = rows(running, 1)
    gate.release()
    assert (row.status, row.estimated) == ("cut", True)
    assert row.output_tokens >= USAGE["output_tokens"]
    assert running.simulator.wait_for(lambda: running.simulator.open_streams == 0)
    gate = leave_before_the_end(running)
    assert running.stop() == 0
    gate.release()
    assert [row.estimated for row in rows(running, 2)] == [True, True]


def test_bounds() -> None:
    """A worker reads few answers on at the same time, and fewer of one user."""
    read_ons = ReadOns(most=5, most_per_user=2)
    assert [read_ons.begin("alice") for _ in range(3)] == [True, True, False]
    assert [read_ons.begin(user) for user in ("bob", "bob", "carol", "dave")] == [True, True, True, False]
    read_ons.end("alice")
    assert [read_ons.begin(user) for user in ("dave", "alice")] == [True, False]
