"""The state's storage fails under load: no turn fails, and afterwards every turn is in the ledger exactly once."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.conftest import ALICE, BOB
from tests.faults.outages import fill, locked_by_another, small_file_system
from tests.faults.stack import LAST_EVENT, WAIT_SECONDS, Answer, Background, Stack, eventually, rows_of, workers_of


def take_turns(stack: Stack, count: int, *, stops_at_end: bool = False) -> list[Answer]:
    """Take concurrent turns, and check that all of them end, and complete unless the client disconnects just before."""
    streams = [Background(lambda: stack.turn(ALICE, stops_at_end=stops_at_end)) for _ in range(count)]
    answers = [stream.answer() for stream in streams]
    assert [(answer.status, answer.has_ended) for answer in answers] == [(200, True)] * count
    assert stops_at_end or all(answer.is_complete for answer in answers)
    return answers


def is_recorded_once(answers: list[Answer], state_path: Path) -> bool:
    """Return whether the ledger contains exactly these turns, once each."""
    return sorted(row[2] for row in rows_of(state_path)) == sorted(answer.request_id for answer in answers)


@pytest.mark.parametrize("is_killed", [False, True], ids=["released", "killed"])
def test_database_locked_by_another_process(start_stack: Callable[..., Stack], is_killed: bool) -> None:
    """Turns end while another process holds the database, survive kill -9 of all workers, and are written once."""
    stack = start_stack(workers=2)
    answers = take_turns(stack, 4)
    with locked_by_another(stack.running.state_path / "ocm.db"):
        if is_killed:
            gate = Gate().after(LAST_EVENT)
            stack.simulator.plan(Plan(gate=gate, events=1), times=8)
        answers += take_turns(stack, 8, stops_at_end=is_killed)
        if is_killed:
            for pid in workers_of(stack.running):
                os.kill(pid, signal.SIGKILL)
            gate.release()
    assert eventually(lambda: is_recorded_once(answers, stack.running.state_path))
    answers += take_turns(stack, 2)
    assert eventually(lambda: is_recorded_once(answers, stack.running.state_path))


def test_disk_full(start_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Turns end while the state's disk is full, survive kill -9 of all workers, and are written once."""
    state = tmp_path / "small"
    with small_file_system(state):
        stack = start_stack(workers=2, state_path=str(state))
        answers = take_turns(stack, 4)
        fill(state / "filler")
        answers += take_turns(stack, 8)
        for pid in workers_of(stack.running):
            os.kill(pid, signal.SIGKILL)
        answers += take_turns(stack, 2)
        (state / "filler").unlink()
        answers += take_turns(stack, 4)
        assert eventually(lambda: is_recorded_once(answers, state), seconds=40)
        assert stack.running.stop() == 0


def test_credential_disk_full(start_stack: Callable[..., Stack], simulator: Simulator, tmp_path: Path) -> None:
    """Without space for its successor no refresh token is used; clients get 503 until there is space."""
    folder = tmp_path / "small"
    with small_file_system(folder):
        path = folder / "auth.json"
        stack = start_stack(workers=2, credential_path=str(path))
        path.write_bytes(stack.running.credential_path.read_bytes())
        assert stack.serves()
        simulator.expire()
        fill(folder / "filler")
        before = path.read_bytes()
        assert [stack.turn().status for _ in range(3)] == [503] * 3
        assert simulator.refreshes == []
        assert path.read_bytes() == before
        (folder / "filler").unlink()
        assert eventually(lambda: stack.turn().status == 200, seconds=30)
        assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]
        assert stack.running.stop() == 0


def test_database_damaged(start_stack: Callable[..., Stack]) -> None:
    """While the database cannot be read, users with limits are refused and all others are served."""
    limited = {"name": "alice", "token": ALICE, "limits": [{"per": "day", "requests": 1000}]}
    stack = start_stack(workers=1, user_entries=[limited, {"name": "bob", "token": BOB}])
    assert stack.turn(ALICE).has_ended
    assert eventually(lambda: len(stack.rows()) == 1)
    for name in ("ocm.db", "ocm.db-wal", "ocm.db-shm"):
        path = stack.running.state_path / name
        if path.exists():
            path.write_bytes(b"this is no database" * 1000)
    os.kill(workers_of(stack.running)[0], signal.SIGKILL)
    assert eventually(lambda: stack.turn(BOB).has_ended)
    assert stack.turn(ALICE).status == 503
    assert stack.serves()
    with pytest.raises(sqlite3.DatabaseError):
        stack.rows()


def test_database_locked_in_mid_turn(start_stack: Callable[..., Stack]) -> None:
    """A stream completes although the database was locked after it began."""
    stack = start_stack(workers=1)
    answers = take_turns(stack, 1)
    gate = stack.simulator.gate().after(4)
    stack.simulator.plan(Plan(gate=gate))
    stream = Background(lambda: stack.turn(BOB))
    assert gate.reached.wait(WAIT_SECONDS)
    with locked_by_another(stack.running.state_path / "ocm.db"):
        gate.release()
        answers.append(stream.answer())
        assert answers[-1].has_ended
    assert eventually(lambda: is_recorded_once(answers, stack.running.state_path))
