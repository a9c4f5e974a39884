"""The ledger: each turn is recorded exactly once, whatever happens to the database."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import Popen

import pytest

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.ledger import Ledger, RateLimitsSnapshot
from ocm_wsgi.accounting.recorder import Backlog
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.errors import StateError
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage.database import Database
from tests.clock import Clock

IDLE = Backlog(memory=0, spool=0, is_database_failing=False)

MakeTurn = Callable[..., Turn]

# The limit, on a busy machine, for operations that take a second at most, in seconds.
BUSY_SECONDS = 20


@pytest.fixture
def holder(ledger: Ledger, process: Callable[..., Popen[str]], make_turn: MakeTurn) -> Popen[str]:
    """Start another process that keeps the database locked until ``communicate`` is called."""
    ledger.record(make_turn(id="before"))
    other = process("hold")
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread or process, 20 seconds at most."""
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def stored(database: Database) -> list[Turn]:
    """Return all turns that are in the database, newest first."""
    return list(history.all_turns(database, history.TurnFilter()))


def recorded(ledger: Ledger, database: Database) -> list[str]:
    """Return the identifiers of all turns, sorted, after checking that the sums agree with them."""
    found = [turn.id for turn in stored(database)]
    assert ledger.sums()[0].counts.turns == len(found)
    return sorted(found)


def test_record(ledger: Ledger, database: Database, make_turn: MakeTurn) -> None:
    """A recorded turn is in the database, unchanged."""
    turn = make_turn(usage=None, week_start=1_772_442_000)
    assert ledger.record(turn) == "database"
    assert stored(database) == [turn]
    assert ledger.backlog() == IDLE


def test_record_twice(ledger: Ledger, database: Database, make_turn: MakeTurn) -> None:
    """Recording the same turn again succeeds, and adds nothing."""
    turn = make_turn()
    assert ledger.record(turn) == ledger.record(replace(turn, user="bob")) == "database"
    assert stored(database) == [turn]
    assert ledger.sums()[0].counts.turns == 1


def test_record_async(ledger: Ledger, make_turn: MakeTurn) -> None:
    """The caller continues immediately and is called back from another thread, even after another callback failed."""
    calls: list[tuple[str, str]] = []
    was_called = threading.Event()

    def fail(_durability: str) -> None:
        raise RuntimeError

    def on_recorded(durability: str) -> None:
        calls.append((durability, threading.current_thread().name))
        was_called.set()

    ledger.record_async(make_turn(), fail)
    ledger.record_async(make_turn(), on_recorded)
    assert was_called.wait(10)
    assert calls == [("database", "ledger-writer")]


def test_record_after_close(ledger: Ledger, make_turn: MakeTurn, state_path: Path) -> None:
    """Closing leaves no thread and no journal; a later record is stored all the same."""
    ledger.record(make_turn())
    ledger.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ledger-")]
    assert not list((state_path / "spool").glob("*.journal"))
    assert ledger.record(make_turn()) == "database"
    ledger.close()


def test_record_from_fifty_threads(ledger: Ledger, database: Database, make_turn: MakeTurn) -> None:
    """Many threads can record at the same time."""
    turns = [make_turn() for _ in range(500)]
    threads = [
        threading.Thread(target=lambda part=turns[i::50]: [ledger.record(each) for each in part]) for i in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded(ledger, database) == sorted(turn.id for turn in turns)


def test_record_hostile_text(ledger: Ledger, make_turn: MakeTurn) -> None:
    """A model name that no database accepts does not block recording."""
    assert ledger.record(make_turn(model="\ud800\0" * 500)) == "database"


def test_record_never_raises(ledger: Ledger, make_turn: MakeTurn, caplog: pytest.LogCaptureFixture) -> None:
    """A turn continues even if it cannot be recorded; the log names it."""
    assert ledger.record(make_turn(id="odd", usage="odd")) == "memory"
    assert "Cannot record turn odd" in caplog.text


def test_record_from_four_processes(process: Callable[..., Popen[str]], ledger: Ledger, database: Database) -> None:
    """Concurrent processes do not lose each other's records."""
    children = [process("record", "200", f"user-{number}") for number in range(4)]
    for child in children:
        assert child.communicate(timeout=60)[0].splitlines() == ["database"] * 200
    assert len(recorded(ledger, database)) == 800
    assert [each.counts.turns for each in ledger.sums(by=("user",))] == [200] * 4


@pytest.mark.parametrize("holds", ["holds", "never-holds"])
def test_record_and_kill(process: Callable[..., Popen[str]], ledger: Ledger, database: Database, holds: str) -> None:
    """``kill -9`` at random moments neither loses nor duplicates a turn that was reported durable."""
    safe = process("torture", "2", holds).communicate(timeout=60)[0].split()
    assert process("settle").wait(timeout=60) == 0
    found = recorded(ledger, database)
    assert len(safe) > 100
    assert set(safe) <= set(found)
    assert len(found) == len(set(found))
    # Tokens and costs in turn_hour are those of the turns, too.
    counts = ledger.sums()[0].counts
    turns = stored(database)
    assert counts.input_tokens == sum(turn.usage.input_tokens for turn in turns if turn.usage)
    assert counts.cost_micro_usd == sum(turn.cost_micro_usd or 0 for turn in turns)
    assert counts.turns_without_usage == sum(turn.usage is None for turn in turns)


def test_record_while_locked(
    holder: Popen[str], ledger: Ledger, database: Database, make_turn: MakeTurn, caplog: pytest.LogCaptureFixture
) -> None:
    """A locked database delays the first turn by a second, and no later one; all are written once it is free."""
    began = time.monotonic()
    assert ledger.record(make_turn(id="first")) == "spool"
    assert 0.9 < time.monotonic() - began < BUSY_SECONDS
    began = time.monotonic()
    patient = partial(ledger.record, timeout_seconds=2 * BUSY_SECONDS)
    assert [patient(make_turn(id=f"next-{number}")) for number in range(3)] == ["spool"] * 3
    assert time.monotonic() - began < BUSY_SECONDS
    assert ledger.backlog() == Backlog(memory=0, spool=4, is_database_failing=True)
    holder.communicate()
    wait_until(lambda: ledger.backlog() == IDLE)
    assert recorded(ledger, database) == ["before", "first", "next-0", "next-1", "next-2"]
    assert len(caplog.messages) == 2
    assert "it did not respond in time" in caplog.messages[0]
    assert "has recovered" in caplog.messages[1]


def test_close_while_locked(
    holder: Popen[str], ledger: Ledger, database: Database, make_turn: MakeTurn, process: Callable[..., Popen[str]]
) -> None:
    """Records in the spool when a process ends are written by the next one."""
    assert ledger.record(make_turn(id="waits"), timeout_seconds=0.1) == "spool"
    closing = threading.Thread(target=ledger.close)
    closing.start()
    holder.communicate()
    closing.join()
    assert process("settle").wait(timeout=60) == 0
    assert recorded(ledger, database) == ["before", "waits"]


def test_read_while_locked(holder: Popen[str], ledger: Ledger, database: Database) -> None:
    """Turns can be read while the database is locked for writing."""
    assert len(stored(database)) == 1


def test_record_on_full_disk(process: Callable[..., Popen[str]], state_path: Path) -> None:
    """When the file system is full, records go to reserved space, and survive the death of the process."""
    state_path.mkdir()
    child = process("fill", wrapper="unshare --mount" if os.getuid() == 0 else "unshare --user --map-root-user --mount")
    *reports, total = [line.split() for line in child.communicate(timeout=60)[0].splitlines()]
    places = [place for place, _is_stored, _seconds in reports]
    assert {(place, is_stored) for place, is_stored, _ in reports} == {
        ("database", "True"),
        ("spool", "True"),
        ("memory", "False"),
    }
    assert places == sorted(places, key=["database", "spool", "memory"].index)
    assert max(float(seconds) for _, _, seconds in reports) < BUSY_SECONDS
    expected = str(len(reports) - places.count("memory"))
    assert total == ["sum", expected, expected]


def test_record_in_memory(
    state_path: Path, clock: Clock, make_turn: MakeTurn, caplog: pytest.LogCaptureFixture
) -> None:
    """Records that can be written nowhere are kept in memory, counted, and written once that is possible."""
    state_path.mkdir()
    blocker = state_path / "blocker"
    blocker.touch()
    database = Database(f"sqlite:///{blocker}/ocm.sqlite3")
    ledger = Ledger(database, Spool(blocker / "spool"), clock)
    turns = [make_turn() for _ in range(3)]
    assert [ledger.record(turn) for turn in turns] == ["memory"] * 3
    assert ledger.backlog() == Backlog(memory=3, spool=0, is_database_failing=True)
    assert sum("keeping records in memory" in message for message in caplog.messages) == 1
    blocker.unlink()
    wait_until(lambda: ledger.backlog() == IDLE)
    assert recorded(ledger, database) == sorted(turn.id for turn in turns)
    ledger.close()
    database.close()


def test_record_with_garbage_database(
    ledger: Ledger, database: Database, state_path: Path, make_turn: MakeTurn
) -> None:
    """A damaged database causes no delay, and all records are written once it is moved away."""
    state_path.mkdir()
    path = state_path / "ocm.sqlite3"
    path.write_bytes(b"no database" * 100)
    began = time.monotonic()
    assert ledger.record(make_turn(id="1"), timeout_seconds=2 * BUSY_SECONDS) == "spool"
    assert time.monotonic() - began < BUSY_SECONDS
    with pytest.raises(StateError):
        stored(database)
    path.rename(state_path / "damaged")
    wait_until(lambda: ledger.backlog() == IDLE)
    assert recorded(ledger, database) == ["1"]


def test_record_after_database_was_deleted(
    ledger: Ledger, database: Database, state_path: Path, make_turn: MakeTurn
) -> None:
    """A database that is deleted under a running worker is created again, and later records are in it."""
    ledger.record(make_turn(id="lost"))
    for path in list(state_path.glob("ocm.sqlite3*")):
        path.unlink()
    assert ledger.record(make_turn(id="kept")) == "database"
    assert recorded(ledger, database) == ["kept"]


def test_sums_between(ledger: Ledger, clock: Clock, make_turn: MakeTurn) -> None:
    """Sums can be limited to some hours and to a user, and days can begin in the reader's time zone."""
    for hours in range(5):
        ledger.record(make_turn(started_at=clock() + hours * 3600 + 5, user=("alice", "bob")[hours % 2]))
    since, until = clock() + 3600, clock() + 4 * 3600
    assert ledger.sums(since, until)[0].counts.turns == 3
    assert ledger.sums(since, until, user="bob")[0].counts.turns == 2
    # It is nine o'clock; two hours later, thirteen hours east, the next day begins.
    days = ledger.sums(by=("day",), utc_offset_seconds=13 * 3600)
    assert [(each.group["day"], each.counts.turns) for each in days] == [
        (clock() - 22 * 3600, 2),
        (clock() + 2 * 3600, 3),
    ]


def codex(used_percent: float) -> RateLimits:
    return RateLimits((RateLimit("codex", RateLimitWindow(used_percent, 300, 5_000)),))


def test_rate_limits(ledger: Ledger, database: Database, state_path: Path) -> None:
    """The newest rate limits of a credential are visible here immediately, and soon in every process."""
    other = Ledger(database, Spool(state_path / "spool"))
    assert ledger.rate_limits(DEFAULT_CREDENTIAL) is None
    ledger.note_rate_limits(DEFAULT_CREDENTIAL, codex(5), at=10.0)
    assert ledger.rate_limits(DEFAULT_CREDENTIAL) == RateLimitsSnapshot(codex(5), 10.0)
    wait_until(lambda: other.rate_limits(DEFAULT_CREDENTIAL) is not None)
    other.note_rate_limits(DEFAULT_CREDENTIAL, codex(4), at=9.0)
    other.note_rate_limits("second", RateLimits(), at=1.0)
    wait_until(lambda: ledger.rate_limits("second") is not None)
    assert (
        ledger.rate_limits(DEFAULT_CREDENTIAL)
        == other.rate_limits(DEFAULT_CREDENTIAL)
        == RateLimitsSnapshot(codex(5), 10.0)
    )
    other.close()


def test_rate_limits_of_another_family(ledger: Ledger, database: Database, state_path: Path) -> None:
    """A later report about another limit replaces nothing of the subscription's, in any process."""
    second = RateLimit("codex-bengalfox", None, RateLimitWindow(7.0, 10_080, 6_000))
    ledger.note_rate_limits(DEFAULT_CREDENTIAL, codex(5), at=10.0)
    wait_until(lambda: Ledger(database, Spool(state_path / "none")).rate_limits(DEFAULT_CREDENTIAL) is not None)
    other = Ledger(database, Spool(state_path / "spool"))
    other.note_rate_limits(DEFAULT_CREDENTIAL, RateLimits((second,), "codex-bengalfox"), at=20.0)
    both = RateLimitsSnapshot(RateLimits((*codex(5).limits, second), "codex-bengalfox"), 20.0)
    assert other.rate_limits(DEFAULT_CREDENTIAL) == both
    wait_until(lambda: Ledger(database, Spool(state_path / "none")).rate_limits(DEFAULT_CREDENTIAL) == both)
    assert ledger.rate_limits(DEFAULT_CREDENTIAL) == both
    other.close()


def test_rate_limits_when_the_clock_is_set_back(ledger: Ledger, database: Database, state_path: Path) -> None:
    """New rate limits replace older ones whose time is in the future."""
    ledger.note_rate_limits(DEFAULT_CREDENTIAL, codex(1), at=5_000.0)
    wait_until(lambda: Ledger(database, Spool(state_path / "none")).rate_limits(DEFAULT_CREDENTIAL) is not None)
    other = Ledger(database, Spool(state_path / "spool"))
    other.note_rate_limits(DEFAULT_CREDENTIAL, codex(2), at=1_000.0)
    wait_until(
        lambda: (
            Ledger(database, Spool(state_path / "none")).rate_limits(DEFAULT_CREDENTIAL)
            == RateLimitsSnapshot(codex(2), 1_000.0)
        )
    )
    other.close()


def test_spool_modes(ledger: Ledger, state_path: Path, make_turn: MakeTurn) -> None:
    """Only the owner can read the spool."""
    ledger.record(make_turn())
    assert {oct(path.stat().st_mode & 0o777) for path in (state_path / "spool").iterdir()} == {"0o600"}
    assert (state_path / "spool").stat().st_mode & 0o777 == 0o700


def test_database_integrity(ledger: Ledger, state_path: Path, make_turn: MakeTurn) -> None:
    """SQLite's own integrity check passes."""
    ledger.record(make_turn())
    with sqlite3.connect(state_path / "ocm.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
