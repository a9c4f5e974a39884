"""States to back up and to restore, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.ownership.owners import store_claims
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota import limits
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import metadata
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.postgresql_server import PostgresqlServer


@pytest.fixture
def make_url(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that returns the URL of a new, empty database of a kind."""
    numbers = itertools.count()

    def make(kind: str) -> str:
        if kind == "postgresql":
            server: PostgresqlServer = request.getfixturevalue("postgresql")
            return server.url
        return f"sqlite:///{tmp_path}/state-{next(numbers)}/ocm.db"

    return make


@pytest.fixture
def make_state(make_url: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function that creates a state with rows in every table, and returns its URL."""

    def make(kind: str) -> str:
        url = make_url(kind)
        fill(url)
        return url

    return make


def a_turn(number: int, **values: Any) -> Turn:
    """Return a turn, each in another hour."""
    turn = Turn(
        f"turn-{number}", 3600.25 * number, "alice", "default", "gpt-5", "default", 0, None,
        Usage(100, 40, 10, 4, items=1), 1500, "sse", "completed", 200, 1, 2,
    )  # fmt: skip
    return Turn(**{**vars(turn), **values})


def fill(url: str) -> None:
    """Put rows into every table, with every kind of value."""
    with closing(Database(url)) as database:
        accounts = Accounts((), database)
        accounts.add(User("alice", True, False, ("gpt-5*",), (limits.parse("30% per week"),), 2, 1.5), actor="cli")
        accounts.add(User("bob"), actor="cli")
        unpriced = a_turn(4, user="é", usage=None, cost_micro_usd=None, error_code="\N{PILE OF POO}")
        records = [record_of(turn) for turn in (a_turn(1), a_turn(2, estimated=True), a_turn(3, user="bob"), unpriced)]
        with database.write_directly() as cursor:
            queries.store_records(cursor, records)
        claim = {
            "objects": [["file-1", "file"]],
            "user": "bob",
            "credential": "default",
            "created_at": 5.5,
            "turn": None,
        }
        store_claims(database, [claim])
        with database.write() as connection:
            queries.write_rate_limits(connection, "default", {"seen": [1, None, 0.1]}, 7.0)
        windows = WindowHistory(database)
        report = RateLimits((RateLimit("codex", RateLimitWindow(5.0, 300, 2_000_000_000)),))
        windows.note("default", report, 1_999_990_000.0)
        windows.flush()
        with database.write() as connection:
            for table in metadata.sorted_tables:
                if connection.execute(sa.select(table).limit(1)).first() is None:
                    connection.execute(table.insert(), {column.name: a_value(column.type) for column in table.columns})
    assert all(content(url).values())


def a_value(kind: sa.types.TypeEngine[Any]) -> Any:
    """Return a value of a type."""
    values = {sa.Boolean: True, sa.JSON: {"a": [None, 0.1]}, sa.Double: 1.25, sa.Integer: 7, sa.String: "text"}
    return next(value for type_, value in values.items() if isinstance(kind, type_))


def content(url: str, *, is_restored: bool = False) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a state, by table.

    :param is_restored: leave out the entry of the audit trail about the restoration.
    """
    with closing(Database(url)) as database, database.read() as connection:
        found = {
            name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
            for name, table in metadata.tables.items()
        }
    if is_restored:
        found["event"] = [row for row in found["event"] if "state.restored" not in row]
    return found
