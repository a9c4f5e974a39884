"""Workers are killed at every step of a turn: a turn that a client saw end is recorded once, and others continue."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.conftest import ALICE, BOB
from tests.faults.stack import (
    GONE_SECONDS,
    LAST_EVENT,
    WAIT_SECONDS,
    Answer,
    Background,
    Stack,
    eventually,
    upstream_connections,
    workers_of,
)
from tests.soak.resources import resources_of

STEPS = {
    "before-the-body-is-read": "body",
    "before-the-status": "status",
    "after-the-head": 0,
    "after-the-first-event": 1,
    "in-the-middle": 5,
    "before-the-terminal-event": LAST_EVENT - 1,
    "after-the-terminal-event": LAST_EVENT,
}


def clients_of(stack: Stack) -> int:
    """Return the number of clients connected to the workers."""
    ports = {"port": stack.running.address[1], "upstream_port": int(stack.simulator.url.rpartition(":")[2])}
    return sum(resources_of(pid, **ports).clients for pid in workers_of(stack.running))


def start_elsewhere(stack: Stack, victim: int, gate: Gate, open_ends: ExitStack) -> list[Background[Answer]]:
    """Start streams for Bob until a worker other than the victim has one; return all of them."""
    streams: list[Background[Answer]] = []
    open_before = stack.simulator.open_streams
    while not upstream_connections(stack.running).keys() - {victim}:
        stack.simulator.plan(Plan(gate=gate, events=1))
        streams.append(Background(lambda: stack.turn(BOB)))
        open_ends.callback(streams[-1].answer)
        assert stack.simulator.wait_for(
            lambda: stack.simulator.open_streams >= open_before + len(streams), WAIT_SECONDS
        )
    return streams


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_worker_killed_at_each_step(start_stack: Callable[..., Stack], step: int | str) -> None:
    """A turn that ended is recorded once, otherwise it looks truncated; nothing is sent twice, others continue."""
    stack = start_stack(workers=2)
    simulator = stack.simulator
    gate, others, terminal_seen = Gate().at(step), Gate().after(3), threading.Event()
    with ExitStack() as open_ends:
        open_ends.callback(others.release)
        simulator.plan(Plan(gate=gate, events=1))
        stream = Background(lambda: stack.turn(ALICE, terminal_seen=terminal_seen))
        assert gate.reached.wait(WAIT_SECONDS)
        (victim,) = upstream_connections(stack.running)
        bystanders = start_elsewhere(stack, victim, others, open_ends)
        if step == LAST_EVENT:
            assert terminal_seen.wait(WAIT_SECONDS)
            assert [row[:2] for row in stack.rows()] == [("alice", "completed")]
        others_held = simulator.open_connections - upstream_connections(stack.running)[victim]
        os.kill(victim, signal.SIGKILL)
        assert simulator.wait_for(lambda: simulator.open_connections <= others_held, GONE_SECONDS)
        answer = stream.answer()
        gate.release()
        assert stack.turn(ALICE).has_ended
        others.release()
        answers = [each.answer() for each in bystanders]
    assert not answer.is_complete or answer.status == 502
    assert answer.has_ended == (step == LAST_EVENT)
    complete = [each for each in answers if each.has_ended and each.is_complete]
    hashes = {sent.body_sha256 for sent in simulator.sent}
    assert complete
    assert {hashlib.sha256(each.body).hexdigest() for each in complete} <= hashes
    assert len(simulator.requests) == len(bystanders) + 2 - (step == "body")
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    ended = [each.request_id for each in [answer, *answers] if each.has_ended]
    recorded = [row[2] for row in stack.rows() if row[1] == "completed"]
    assert set(ended) <= set(recorded)
    assert len(recorded) == len(set(recorded)) == len(ended) + 1
    assert stack.serves()


@pytest.mark.parametrize("point", ["rotation", "rotated"])
def test_workers_killed_while_the_credential_is_refreshed(
    start_stack: Callable[..., Stack], simulator: Simulator, point: str
) -> None:
    """All workers are killed while a refresh token is presented: it is presented once, its successor is saved."""
    stack = start_stack(workers=2, credential=simulator.credential(expires_in=-60))
    gate = Gate().at(point)
    simulator.plan(Plan(gate=gate), path="/oauth/token")
    before = json.loads(stack.running.credential_path.read_text())["tokens"]["refresh_token"]
    streams = [Background(lambda: stack.turn()) for _ in range(8)]
    assert gate.reached.wait(WAIT_SECONDS)
    # A client that is not accepted before a worker is killed would reach the next worker.
    assert eventually(lambda: clients_of(stack) == len(streams))
    for pid in workers_of(stack.running):
        os.kill(pid, signal.SIGKILL)
    answers = [stream.answer() for stream in streams]
    assert {answer.status for answer in answers} <= {0, 502}
    gate.release()
    assert stack.serves()
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]
    assert json.loads(stack.running.credential_path.read_text())["tokens"]["refresh_token"] != before
    assert len(simulator.seen("/backend-api/codex/responses")) == 2


def test_stopped_while_an_orphan_refreshes_the_credential(
    start_stack: Callable[..., Stack], simulator: Simulator
) -> None:
    """The master exits after a refresh whose worker was killed, as everything in a container is killed with it."""
    stack = start_stack(workers=1, credential=simulator.credential(expires_in=-60))
    gate = Gate().at("rotated")
    simulator.plan(Plan(gate=gate), path="/oauth/token")
    before = json.loads(stack.running.credential_path.read_text())["tokens"]["refresh_token"]
    stream = Background(lambda: stack.turn())
    try:
        assert gate.reached.wait(WAIT_SECONDS)
        (worker,) = workers_of(stack.running)
        os.kill(worker, signal.SIGKILL)
        stream.answer()
        stack.running.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "Waiting for the refresh of the credential" in stack.running.log_text())
        assert stack.running.process.poll() is None
    finally:
        gate.release()
    assert stack.running.process.wait(60) == 0
    assert json.loads(stack.running.credential_path.read_text())["tokens"]["refresh_token"] != before
