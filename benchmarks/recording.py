"""The cost of accounting: ``python -m benchmarks.recording [ROWS]``.

Recording: CPU time of the process and latency per turn, from one thread and from fifty. Admission: ``user_window`` over
ROWS turns (1,000,000 by default) in thirty days, half of them by one user.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import DAY_SECONDS, HOUR_SECONDS
from ocm_wsgi.storage.database import Database

ROWS = 1_000_000
BATCH = 10_000
DAYS = 30
USERS = ("alice", "alice", "alice", "alice", "bob", "carol", "dave", "erin")
MODELS = ("gpt-5", "gpt-5-codex", "gpt-5-mini")


def turn(started_at: float, user: str) -> Turn:
    """Return a typical turn."""
    usage = Usage(random.randrange(100_000), 0, random.randrange(5_000))
    return Turn(
        id=uuid.uuid4().hex,
        started_at=started_at,
        user=user,
        credential=DEFAULT_CREDENTIAL,
        model=random.choice(MODELS),
        service_tier="default",
        context_window=0,
        week_start=int(started_at // (7 * DAY_SECONDS) * 7 * DAY_SECONDS),
        usage=usage,
        cost_micro_usd=usage.input_tokens * 2,
        transport="sse",
        status="completed",
        http_status=200,
        first_byte_ms=400,
        duration_ms=9_000,
        request_id=uuid.uuid4().hex,
    )


def measure_recording(ledger: Ledger, threads: int, turns_each: int) -> None:
    """Record from concurrent threads and print the cost of a turn."""
    count = threads * turns_each
    waiting = [turn(time.time(), random.choice(USERS)) for _ in range(count)]
    latencies: list[float] = []

    def work() -> None:
        for _ in range(turns_each):
            made = waiting.pop()
            began = time.perf_counter()
            assert ledger.record(made) == "database"
            latencies.append(time.perf_counter() - began)

    cpu, wall = _timed(lambda: _in_threads(work, threads))
    print(
        f"record, {threads:2} threads: {cpu / count * 1e6:6.0f} us CPU per turn, {count / wall:6.0f} turns/s, "
        f"latency {_percentiles(latencies)}"
    )


def measure_windows(database: Database, now: float) -> None:
    """Run admission's query for windows of several lengths and random starts, and print its latencies."""
    for name, seconds in (("5h", 5 * HOUR_SECONDS), ("week", 7 * DAY_SECONDS), ("month", DAYS * DAY_SECONDS)):
        latencies = []
        for _ in range(300):
            since = now - seconds + random.uniform(0, HOUR_SECONDS)
            began = time.perf_counter()
            with database.read() as connection:
                queries.user_window(connection, "alice", since, now, now=now)
            latencies.append(time.perf_counter() - began)
        print(f"user_window, {name:5}: {_percentiles(latencies)}")


def fill(database: Database, rows: int, now: float) -> None:
    """Write rows like the ledger, in larger batches."""
    for batch in _batches(rows, now):
        with database.write_directly() as direct:
            queries.store_records(direct, [record_of(each) for each in batch])


def _batches(rows: int, now: float) -> Iterator[list[Turn]]:
    for begin in range(0, rows, BATCH):
        numbers = range(begin, min(begin + BATCH, rows))
        yield [turn(now - (rows - number) / rows * DAYS * DAY_SECONDS, random.choice(USERS)) for number in numbers]


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _percentiles(latencies: Sequence[float]) -> str:
    ordered = sorted(latencies)
    shown = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return ", ".join(
        f"{name} {ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3:.2f} ms"
        for name, share in shown.items()
    )


def main(rows: int) -> None:
    """Run everything in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/ocm.sqlite3")
        ledger = Ledger(database, Spool(Path(folder) / "spool"))
        ledger.record(turn(time.time(), "alice"))
        measure_recording(ledger, 1, 2_000)
        measure_recording(ledger, 50, 200)
        now = time.time()
        _, seconds = _timed(lambda: fill(database, rows, now))
        print(f"filled with {rows:,} turns in {seconds:.0f} s")
        measure_windows(database, now)
        measure_recording(ledger, 1, 2_000)
        ledger.close()
        database.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
