"""State databases of earlier releases, while workers of those may still be using them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ocm_wsgi.accounting import history, queries
from ocm_wsgi.accounting.queries import Counts
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.errors import StateError
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import SCHEMA_VERSION, get_meta

SCHEMA_1 = (Path(__file__).parent / "schema_1.sql").read_text()

TURN_1 = """
INSERT INTO turn (id, started_at, user, credential, model, service_tier, context_window, week_start, input_tokens,
    cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens, cost_micro_usd, transport, status, http_status,
    first_byte_ms, duration_ms, request_id, error_code)
VALUES (?, 3600.5, 'alice', 'default', 'gpt-5', 'default', 0, NULL, 100, 40, 10, 4, 0, 1500, 'sse', 'completed', 200,
    1, 2, '', '')
ON CONFLICT (id) DO NOTHING
"""
HOUR_1 = """
INSERT INTO turn_hour (user, hour, credential, model, service_tier, context_window, week_start, turns,
    turns_without_usage, turns_unpriced, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
    cache_write_tokens, cost_micro_usd)
VALUES ('alice', 3600, 'default', 'gpt-5', 'default', 0, 0, 1, 0, 0, 100, 40, 10, 4, 0, 1500)
ON CONFLICT (user, hour, credential, model, service_tier, context_window, week_start) DO UPDATE SET
    turns = turn_hour.turns + excluded.turns, input_tokens = turn_hour.input_tokens + excluded.input_tokens,
    cached_tokens = turn_hour.cached_tokens + excluded.cached_tokens,
    output_tokens = turn_hour.output_tokens + excluded.output_tokens,
    reasoning_tokens = turn_hour.reasoning_tokens + excluded.reasoning_tokens,
    cost_micro_usd = turn_hour.cost_micro_usd + excluded.cost_micro_usd
"""


@pytest.fixture
def worker_1(state_path: Path) -> Iterator[sqlite3.Connection]:
    """Create a database as version 1 did, with one turn, and leave that release's connection open."""
    state_path.mkdir()
    with closing(sqlite3.connect(state_path / "ocm.sqlite3", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA_1)
        connection.execute("INSERT INTO meta VALUES ('schema_version', '1')")
        record_1(connection, "before")
        yield connection


def record_1(connection: sqlite3.Connection, identity: str) -> None:
    """Record a turn as a worker of version 1 does."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(TURN_1, (identity,))
    connection.execute(HOUR_1)
    connection.execute("COMMIT")


def test_version_1(worker_1: sqlite3.Connection, database: Database) -> None:
    """The columns that version 1 lacks are added at the first use, and workers of version 1 go on recording."""
    with database.read() as connection:
        assert get_meta(connection, "schema_version") == str(SCHEMA_VERSION)
    record_1(worker_1, "beside")
    usage = Usage(200, 0, 20, image_input_tokens=7, items=2)
    (turn,) = (each for each in history.turns(database, history.TurnFilter()).turns if each.id == "beside")
    new = Turn(**{**vars(turn), "id": "new", "usage": usage, "cost_micro_usd": None, "estimated": True})
    with database.write_directly() as cursor:
        queries.store_records(cursor, [record_of(new)])
    record_1(worker_1, "after")
    found = {each.id: each for each in history.turns(database, history.TurnFilter()).turns}
    assert found.keys() == {"before", "beside", "new", "after"}
    assert (found["after"].usage, found["after"].estimated) == (Usage(100, 40, 10, 4), False)
    assert found["new"] == new
    with database.read() as connection:
        (total,) = queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)
    assert total.counts == Counts(4, 0, 1, 1, 500, 120, 50, 12, image_input_tokens=7, items=2, cost_micro_usd=4500)


@pytest.mark.usefixtures("worker_1")
def test_version_1_concurrently(state_path: Path) -> None:
    """Workers that open an earlier release's database at the same time add the columns once."""

    def open_database(_number: int) -> int:
        with closing(Database(f"sqlite:///{state_path}/ocm.sqlite3")) as database:
            return len(history.turns(database, history.TurnFilter()).turns)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(open_database, range(8))) == {1}


def test_version_1_interrupted(worker_1: sqlite3.Connection, database: Database) -> None:
    """A database whose columns cannot all be added is left as it was: the version says what is there."""
    # The index of this name cannot be created, and indexes come after the columns.
    worker_1.execute("CREATE TABLE event_by_time (id)")
    with pytest.raises(StateError), database.read():
        pass
    worker_1.execute("DROP TABLE event_by_time")
    assert worker_1.execute("SELECT value FROM meta").fetchall() == [("1",)]
    assert "estimated" not in {row[1] for row in worker_1.execute("PRAGMA table_info (turn)")}
    assert len(history.turns(database, history.TurnFilter()).turns) == 1
