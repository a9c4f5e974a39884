"""OpenAI fails in every possible way: each turn is sent once, reported truthfully, and affects nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ocm_wsgi.simulator import Plan
from tests.conftest import ALICE
from tests.faults.stack import BODY, GONE_SECONDS, Background, Stack, bystander, eventually, head, take_turn

ENDLESS = 8 * 2**20

NO_RESPONSE = {
    "closed": Plan(cut_at="status"),
    "garbage": Plan(status_line_garbage=True),
    "endless-header": Plan(endless_field=ENDLESS),
}
CUT = {
    "reset": Plan(reset_after=3),
    "closed": Plan(cut_after=3),
    "closed-before-the-end": Plan(cut_after=8, events=1, framing="length"),
    "bad-chunk": Plan(bad_chunk=3),
    "too-short": Plan(framing="length", wrong_length=40),
}
STATUSES = [400, 403, 404, 429, 500, 502, 503, 504, 529]
WHOLE = {
    "early-hints": Plan(early_hints=True),
    "slow": Plan(interval=0.05, events=8),
    "byte-by-byte": Plan(chunking="byte"),
    "without-length": Plan(framing="close"),
    "closes-afterwards": Plan(close_idle=True),
    "unsolicited-response": Plan(extra_response=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"),
    "slow-to-read": Plan(slow_read=0.05),
}


@pytest.mark.parametrize("plan", NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_upstream_without_a_response(stack: Stack, plan: Plan) -> None:
    """Without a valid response the client gets a 502, the request is sent once, and no turn counts as completed."""
    recorded = len(stack.rows())
    with bystander(stack):
        close_idle_connections(stack)
        before = len(stack.simulator.requests)
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_complete) == (502, True)
        assert len(stack.simulator.requests) == before + 1
    assert [row for row in stack.rows()[recorded:] if row[2] == answer.request_id and row[1] == "completed"] == []


def close_idle_connections(stack: Stack) -> None:
    """Make upstream close idle connections, with concurrent turns on both workers after which it closes.

    A pool is a stack: an idle connection below closed ones is used only by as many turns at the same time.
    """
    simulator = stack.simulator
    concurrency = 2

    def are_closed() -> bool:
        nonlocal concurrency
        if simulator.wait_for(lambda: simulator.open_connections == simulator.open_streams, 0.1):
            return True
        concurrency = min(2 * concurrency, 64)
        simulator.plan(Plan(close_idle=True), times=concurrency)
        turns = [Background(lambda: stack.turn(route="direct")) for _ in range(concurrency)]
        assert all(turn.answer().has_ended for turn in turns)
        return False

    assert eventually(are_closed)


@pytest.mark.parametrize("route", ["nginx", "direct"])
def test_upstream_closes_as_a_turn_is_sent(start_stack: Callable[..., Stack], route: str) -> None:
    """A turn that meets a closing connection is sent once more over a new one, but not a third time."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    simulator.plan(Plan(cut_at="status"))
    assert stack.turn(route=route).status == 502
    assert len(simulator.requests) == 1
    assert stack.turn(route=route).has_ended
    simulator.plan(Plan(cut_at="status"))
    answer = stack.turn(route=route)
    assert (answer.status, answer.has_ended, answer.is_complete) == (200, True, True)
    assert len(simulator.requests) == 4
    simulator.plan(Plan(cut_at="status"), times=2)
    assert stack.turn(route=route).status == 502
    assert len(simulator.requests) == 6
    assert [row[:2] for row in stack.rows()] == [("alice", "completed")] * 2


@pytest.mark.parametrize("plan", [Plan(reset_after=0), Plan(cut_after=0)], ids=["reset", "closed"])
def test_upstream_cuts_off_after_the_head(stack: Stack, plan: Plan) -> None:
    """A cut right after the head, or a reset that overtakes it, is a failure to the client; nothing is sent twice."""
    with bystander(stack):
        close_idle_connections(stack)
        before = len(stack.simulator.requests)
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_complete) in [(502, True), (200, False)]
        assert len(stack.simulator.requests) == before + 1


@pytest.mark.parametrize("plan", CUT.values(), ids=CUT)
def test_upstream_cuts_off_its_response(stack: Stack, plan: Plan) -> None:
    """A response that upstream cuts off looks truncated to the client, is recorded once, and is not retried."""
    with bystander(stack):
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_complete) == (200, False)
        assert len(stack.simulator.requests) == 2
    status = "completed" if answer.has_ended else "cut"
    assert stack.rows_with([answer]) == [("alice", status, answer.request_id)]


@pytest.mark.parametrize("status", STATUSES)
def test_upstream_error_status(stack: Stack, status: int) -> None:
    """An error from upstream is forwarded unchanged, and not retried, which would cost again."""
    with bystander(stack):
        stack.simulator.plan(Plan(status=status))
        answer = stack.turn()
        assert (answer.status, answer.is_complete) == (status, True)
        assert b"Simulated status" in answer.body
        assert len(stack.simulator.requests) == 2


@pytest.mark.parametrize("plan", WHOLE.values(), ids=WHOLE)
def test_unusual_but_valid_response(stack: Stack, plan: Plan) -> None:
    """An unusual but valid response arrives complete, and the next requests get their own responses."""
    with bystander(stack):
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.has_ended, answer.is_complete) == (200, True, True)
        # Concurrently, so that both workers get some, and one of them reuses the previous connection.
        streams = [Background(lambda: stack.turn(route="direct")) for _ in range(8)]
        following = [stream.answer() for stream in streams]
        assert [(each.status, each.has_ended, b"SECRET" in each.body) for each in following] == [(200, True, False)] * 8
    requests = stack.simulator.requests
    assert len(requests) == len(stack.simulator.turns) == 10
    assert [row[:2] for row in stack.rows_with([answer, *following])] == [("alice", "completed")] * 9


@pytest.mark.parametrize("route", ["nginx", "direct"])
@pytest.mark.parametrize("plan", [Plan(silence_before_status=True), Plan(silence_after=3)], ids=["head", "body"])
def test_upstream_falls_silent(stack: Stack, plan: Plan, route: str) -> None:
    """While upstream is silent, others are served; when the client disconnects, upstream sees it within a second."""
    simulator = stack.simulator
    simulator.plan(plan)
    with stack.socket(route) as connection:
        connection.sendall(head(ALICE, f"Content-Length: {len(BODY)}") + BODY)
        assert simulator.wait_for(lambda: len(simulator.requests) == 1)
        assert stack.serves()
        held = simulator.open_connections
    assert simulator.wait_for(lambda: simulator.open_connections < held, GONE_SECONDS)


def test_upstream_closes_idle_connections(stack: Stack) -> None:
    """When upstream closes idle connections, no turn is lost or duplicated."""
    simulator = stack.simulator
    for number in range(1, 13):
        simulator.plan(Plan(close_idle=True))
        answer = stack.turn()
        assert (answer.has_ended, answer.is_complete) == (True, True)
        assert len(simulator.requests) == len(simulator.turns) == number


def test_upstream_resets_forty_streams_at_once(stack: Stack) -> None:
    """Forty reset streams make forty records, look truncated to their clients, and leave no upstream connection."""
    gate = stack.simulator.gate().after(3)
    stack.simulator.plan(Plan(gate=gate, reset_after=3), times=40)
    streams = [Background(lambda: stack.turn(route="direct")) for _ in range(40)]
    # A reset right after a head overtakes it.
    assert eventually(lambda: gate.blocked == 40)
    gate.release()
    answers = [stream.answer() for stream in streams]
    assert {(answer.status, answer.is_complete) for answer in answers} == {(200, False)}
    assert [row[:2] for row in stack.rows_with(answers)] == [("alice", "cut")] * 40
    assert len(stack.simulator.requests) == 40


def test_turns_on_one_connection_are_isolated(stack: Stack) -> None:
    """On one client connection, no data of one turn appears in another."""
    client = stack.connect("direct")
    try:
        stack.simulator.plan(Plan(text="the first"))
        first = take_turn(client, ALICE)
        stack.simulator.plan(Plan(text="the second"))
        second = take_turn(client, ALICE)
        stack.simulator.plan(Plan(cut_after=9, text="the third"))
        third = take_turn(client, ALICE)
    finally:
        client.close()
    assert not third.is_complete
    assert b"the first" in first.body
    assert b"the first" not in second.body + third.body
    assert b"the second" in second.body
