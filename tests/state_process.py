"""Another process on the same state, for tests: ``state_process.py STATE_PATH COMMAND [ARGUMENT ...]``."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import SCHEMA_VERSION, get_meta

THREADS = 4
# The least number of turns that `torture` records.
LEAST = 100


def open_database(state_path: Path) -> Database:
    """Return the database that the tests use."""
    return Database(f"sqlite:///{state_path}/ocm.sqlite3")


def open_ledger(state_path: Path, *, reserve_bytes: int = 1 << 16) -> Ledger:
    """Return the ledger that the tests use. It looks for journals of dead processes more often than a real one."""
    spool = Spool(state_path / "spool", reserve_bytes=reserve_bytes)
    return Ledger(open_database(state_path), spool, retention_days=10_000, chore_seconds=0.2)


def turn(user: str) -> Turn:
    """Return a turn with random numbers."""
    usage = Usage(random.randrange(1000), 0, random.randrange(100)) if random.random() < 0.9 else None
    model = random.choice(["gpt-5", "gpt-5-codex"])
    started_at = time.time() - random.randrange(10_000)
    cost = None if usage is None else usage.input_tokens * 3
    identity = uuid.uuid4().hex
    return Turn(
        identity,
        started_at,
        user,
        DEFAULT_CREDENTIAL,
        model,
        "default",
        0,
        None,
        usage,
        cost,
        "sse",
        "completed",
        200,
        1,
        2,
    )


def in_threads(work: Callable[[], None]) -> None:
    """Run ``work`` in several threads at the same time."""
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def record(state_path: Path, count: str, user: str) -> None:
    """Record turns from several threads, and print where they were stored."""
    ledger = open_ledger(state_path)

    def work() -> None:
        for _ in range(int(count) // THREADS):
            place = ledger.record(turn(user), timeout_seconds=30)
            os.write(sys.stdout.fileno(), f"{place}\n".encode())

    in_threads(work)
    ledger.close()


def create(state_path: Path, count: str) -> None:
    """Use the database for the first time in many processes at the same time, and print how many succeeded."""

    def work() -> None:
        database = open_database(state_path)
        with database.read() as connection:
            assert get_meta(connection, "schema_version") == str(SCHEMA_VERSION)
        database.close()

    print(_together(int(count), work), flush=True)


def import_usages(state_path: Path, count: str, path: str) -> None:
    """Write the usage file for the first time in many processes at the same time, and print how many succeeded."""

    def work() -> None:
        UsagesExport(Path(path), open_database(state_path)).write(timeout_seconds=30)

    print(_together(int(count), work), flush=True)


def _together(count: int, work: Callable[[], None]) -> int:
    reading, writing = os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            work()
            os._exit(0)
        children.append(pid)
    os.close(reading)
    os.close(writing)
    return sum(os.waitpid(child, 0)[1] == 0 for child in children)


def hold(state_path: Path) -> None:
    """Keep the database locked until standard input ends."""
    with open_database(state_path).write() as connection:
        connection.execute(sa.text("SELECT 1"))
        print("held", flush=True)
        sys.stdin.read()


def torture(state_path: Path, seconds: str, holds: str) -> None:
    """Kill recording processes at random moments, again and again, and print the turns that were reported durable.

    With ``holds``, the database is locked half of the time, so that many of them die while they use the spool. It takes
    ``seconds``, or longer if a busy machine has not recorded enough by then.
    """
    ends_at = time.monotonic() + float(seconds)
    reading, writing = os.pipe()
    children = [_fork(state_path, reading, writing) for _ in range(3)]
    safe: list[str] = []
    collector = threading.Thread(target=_collect, args=(reading, safe))
    holder = threading.Thread(target=_hold_half_of_the_time, args=(state_path, ends_at))
    collector.start()
    if holds == "holds":
        holder.start()
    while time.monotonic() < ends_at or len(safe) <= LEAST:
        signal.sigtimedwait([], random.uniform(0.02, 0.2))
        victim = random.randrange(len(children))
        _kill(children[victim])
        children[victim] = _fork(state_path, reading, writing)
    for child in children:
        _kill(child)
    os.close(writing)
    collector.join()
    if holds == "holds":
        holder.join()
    print("\n".join(safe), flush=True)


def _fork(state_path: Path, reading: int, writing: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        ledger = open_ledger(state_path)

        def work() -> None:
            while True:
                made = turn(f"user-{os.getpid() % 3}")
                if ledger.record(made, timeout_seconds=0.05) != "memory":
                    # A single write to a pipe is atomic: the process is killed before or after it, never within.
                    os.write(writing, f"{made.id}\n".encode())

        in_threads(work)
    return pid


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _collect(reading: int, safe: list[str]) -> None:
    with os.fdopen(reading) as lines:
        safe.extend(line.strip() for line in lines)


def _hold_half_of_the_time(state_path: Path, ends_at: float) -> None:
    command = [sys.executable, __file__, str(state_path), "hold"]
    while time.monotonic() < ends_at:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            signal.sigtimedwait([], 0.4)
            child.communicate()


def inherit(state_path: Path) -> None:
    """Record into the spool, as the database is invalid; fork; let the child record too; die before the child."""
    state_path.mkdir()
    (state_path / "ocm.sqlite3").write_bytes(b"no database" * 100)
    ledger = open_ledger(state_path)
    assert ledger.record(turn("parent")) == "spool"
    reading, writing = os.pipe()
    if os.fork() == 0:
        place = ledger.record(turn("child"))
        os.write(writing, place.encode())
        sys.stdin.read()
        os._exit(0)
    print(os.read(reading, 10).decode(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def fill(state_path: Path) -> None:
    """Record until the file system is full, and die; free space; print which records were stored, and where."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(state_path)], check=True)
    filler = state_path / "filler"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _record_until_full(state_path, filler, writing)
    os.close(writing)
    with os.fdopen(reading) as lines:
        reports = [line.split() for line in lines]
    os.waitpid(pid, 0)
    filler.unlink()
    ledger = open_ledger(state_path)
    _settle(ledger, state_path)
    stored = {made.id for made in history.all_turns(open_database(state_path), history.TurnFilter())}
    for identity, place, seconds in reports:
        print(place, identity in stored, seconds)
    print("sum", len(stored), ledger.sums()[0].counts.turns)
    ledger.close()


def _record_until_full(state_path: Path, filler: Path, writing: int) -> None:
    ledger = open_ledger(state_path, reserve_bytes=1 << 13)
    places = {"database": 0, "spool": 0, "memory": 0}
    while places["memory"] < 3:
        began = time.monotonic()
        made = turn("alice")
        place = ledger.record(made)
        places[place] += 1
        os.write(writing, f"{made.id} {place} {time.monotonic() - began}\n".encode())
        if places["database"] == 5 and not filler.exists():
            _fill(filler)
    assert ledger.backlog().memory == 3
    os.kill(os.getpid(), signal.SIGKILL)


def _fill(filler: Path) -> None:
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _settle(ledger: Ledger, state_path: Path) -> None:
    """Start the ledger, and wait until it has emptied the journals of dead processes."""
    ledger.start()
    deadline = time.monotonic() + 50
    while set((state_path / "spool").glob("*.journal")) - set((state_path / "spool").glob(f"{os.getpid()}-*")):
        assert time.monotonic() < deadline, "the spool was not emptied"
        signal.sigtimedwait([], 0.02)


def settle(state_path: Path) -> None:
    """Write all journals of dead processes to the database."""
    ledger = open_ledger(state_path)
    _settle(ledger, state_path)
    ledger.close()


if __name__ == "__main__":
    # Log messages are tested elsewhere; here they would bury the output of a failing test.
    logging.disable(logging.CRITICAL)
    commands = {
        function.__name__: function
        for function in (record, create, import_usages, hold, torture, inherit, fill, settle)
    }
    commands[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
