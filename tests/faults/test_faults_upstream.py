"""OpenAI fails in every way it can: each turn is asked for once, ends truthfully, and harms nobody else."""

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
    "an-answer-too-many": Plan(extra_response=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"),
    "slow-to-read": Plan(slow_read=0.05),
}


@pytest.mark.parametrize("plan", NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_upstream_without_a_response(stack: Stack, plan: Plan) -> None:
    """A client gets one 502 for what is no response, the request is sent once, and no turn is counted as completed."""
    recorded = len(stack.rows())
    with bystander(stack):
        close_idle_connections(stack)
        before = len(stack.simulator.requests)
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_whole) == (502, True)
        assert len(stack.simulator.requests) == before + 1
    assert [row for row in stack.rows()[recorded:] if row[2] == answer.request_id and row[1] == "completed"] == []


def close_idle_connections(stack: Stack) -> None:
    """Have upstream close what no turn is using, by turns after which it does; several at once, for both workers."""
    simulator = stack.simulator

    def are_closed() -> bool:
        if simulator.wait_for(lambda: simulator.open_connections == simulator.open_streams, 0.1):
            return True
        simulator.plan(Plan(close_idle=True), times=4)
        turns = [Background(lambda: stack.turn(way="direct")) for _ in range(4)]
        assert all(turn.answer().has_ended for turn in turns)
        return False

    assert eventually(are_closed)


@pytest.mark.parametrize("way", ["nginx", "direct"])
def test_upstream_closes_under_a_turn(start_stack: Callable[..., Stack], way: str) -> None:
    """A turn that met a closing connection goes out once more over a new one, where it is not sent a third time."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    simulator.plan(Plan(cut_at="status"))
    assert stack.turn(way=way).status == 502
    assert len(simulator.requests) == 1
    assert stack.turn(way=way).has_ended
    simulator.plan(Plan(cut_at="status"))
    answer = stack.turn(way=way)
    assert (answer.status, answer.has_ended, answer.is_whole) == (200, True, True)
    assert len(simulator.requests) == 4
    simulator.plan(Plan(cut_at="status"), times=2)
    assert stack.turn(way=way).status == 502
    assert len(simulator.requests) == 6
    assert [row[:2] for row in stack.rows()] == [("alice", "completed")] * 2


@pytest.mark.parametrize("plan", [Plan(reset_after=0), Plan(cut_after=0)], ids=["reset", "closed"])
def test_upstream_cuts_with_its_head(stack: Stack, plan: Plan) -> None:
    """A cut right behind the head, which a reset overtakes, is a failure to the client, and nothing is sent twice."""
    with bystander(stack):
        close_idle_connections(stack)
        before = len(stack.simulator.requests)
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_whole) in [(502, True), (200, False)]
        assert len(stack.simulator.requests) == before + 1


@pytest.mark.parametrize("plan", CUT.values(), ids=CUT)
def test_upstream_cuts_its_response(stack: Stack, plan: Plan) -> None:
    """A response that upstream cuts looks cut to the client, is recorded once, and is not asked for again."""
    with bystander(stack):
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.is_whole) == (200, False)
        assert len(stack.simulator.requests) == 2
    status = "completed" if answer.has_ended else "cut"
    assert stack.rows_with([answer]) == [("alice", status, answer.request_id)]


@pytest.mark.parametrize("status", STATUSES)
def test_upstream_error_status(stack: Stack, status: int) -> None:
    """An error of upstream's passes as it is, and is not hidden behind a second attempt that would cost again."""
    with bystander(stack):
        stack.simulator.plan(Plan(status=status))
        answer = stack.turn()
        assert (answer.status, answer.is_whole) == (status, True)
        assert b"Simulated status" in answer.body
        assert len(stack.simulator.requests) == 2


@pytest.mark.parametrize("plan", WHOLE.values(), ids=WHOLE)
def test_upstream_is_odd(stack: Stack, plan: Plan) -> None:
    """What is odd and yet right arrives whole, for the one who asked, and the next one's answer is their own."""
    with bystander(stack):
        stack.simulator.plan(plan)
        answer = stack.turn()
        assert (answer.status, answer.has_ended, answer.is_whole) == (200, True, True)
        # At once, so that both workers have some, and one of these the connection of before.
        streams = [Background(lambda: stack.turn(way="direct")) for _ in range(8)]
        following = [stream.answer() for stream in streams]
        assert [(each.status, each.has_ended, b"SECRET" in each.body) for each in following] == [(200, True, False)] * 8
    requests = stack.simulator.requests
    assert len(requests) == len(stack.simulator.turns) == 10
    assert [row[:2] for row in stack.rows_with([answer, *following])] == [("alice", "completed")] * 9


@pytest.mark.parametrize("way", ["nginx", "direct"])
@pytest.mark.parametrize("plan", [Plan(silence_before_status=True), Plan(silence_after=3)], ids=["head", "body"])
def test_upstream_falls_silent(stack: Stack, plan: Plan, way: str) -> None:
    """While upstream is silent others are served; when the client has had enough, upstream knows within a second."""
    simulator = stack.simulator
    simulator.plan(plan)
    with stack.socket(way) as connection:
        connection.sendall(head(ALICE, f"Content-Length: {len(BODY)}") + BODY)
        assert simulator.wait_for(lambda: len(simulator.requests) == 1)
        assert stack.serves()
        held = simulator.open_connections
    assert simulator.wait_for(lambda: simulator.open_connections < held, GONE_SECONDS)


def test_upstream_closes_what_was_kept_open(stack: Stack) -> None:
    """A connection that upstream closed while nobody used it costs no turn and doubles none."""
    simulator = stack.simulator
    for number in range(1, 13):
        simulator.plan(Plan(close_idle=True))
        answer = stack.turn()
        assert (answer.has_ended, answer.is_whole) == (True, True)
        assert len(simulator.requests) == len(simulator.turns) == number


def test_upstream_resets_forty_streams_at_once(stack: Stack) -> None:
    """Forty cut streams are forty records, none whole to its client, and leave no connection upstream."""
    gate = stack.simulator.gate().after(3)
    stack.simulator.plan(Plan(gate=gate, reset_after=3), times=40)
    streams = [Background(lambda: stack.turn(way="direct")) for _ in range(40)]
    # A reset right behind a head overtakes it.
    assert eventually(lambda: gate.blocked == 40)
    gate.release()
    answers = [stream.answer() for stream in streams]
    assert {(answer.status, answer.is_whole) for answer in answers} == {(200, False)}
    assert [row[:2] for row in stack.rows_with(answers)] == [("alice", "cut")] * 40
    assert len(stack.simulator.requests) == 40


def test_two_turns_on_one_connection_stay_apart(stack: Stack) -> None:
    """What upstream sent of one turn is in no other, on the same connection of the client."""
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
    assert not third.is_whole
    assert b"the first" in first.body
    assert b"the first" not in second.body + third.body
    assert b"the second" in second.body
