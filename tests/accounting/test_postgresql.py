"""PostgreSQL in place of SQLite: the same guarantees, with a real server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from ocm_wsgi.accounting import history, queries
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.ownership.owners import Owner, Owners
from ocm_wsgi.protocol.objects.stored_object import NamedObject
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Outcome, Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.user import User
from tests.api_requests import post
from tests.clock import Clock
from tests.conftest import ServiceFactory
from tests.postgresql_server import PostgresqlServer

MakeTurn = Callable[..., Turn]


@pytest.fixture
def database(postgresql: PostgresqlServer) -> Iterator[Database]:
    """Create an empty database."""
    database = Database(postgresql.url)
    yield database
    database.close()


def turns(database: Database) -> Counter[str]:
    """Return the number of turns by user, after checking that the sums agree."""
    with database.read() as connection:
        # Otherwise, each query would see all that was committed before it began.
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        query = sa.select(db.turn.c.user, sa.func.count()).group_by(db.turn.c.user)
        counted = Counter({row[0]: row[1] for row in connection.execute(query)})
        query = sa.select(db.turn_hour.c.user, sa.func.sum(db.turn_hour.c.turns)).group_by(db.turn_hour.c.user)
        assert {user: int(count) for user, count in connection.execute(query)} == counted
    return counted


def test_record(ledger: Ledger, database: Database, clock: Clock, make_turn: MakeTurn) -> None:
    """A turn is stored unchanged, and once, however often it is recorded."""
    turn = make_turn(user="é", week_start=None, error_code="no\N{NULL}te")
    assert [ledger.record(turn) for _ in range(3)] == ["database"] * 3
    (found,) = history.turns(database, history.TurnFilter()).turns
    assert (found.user, found.usage, found.cost_micro_usd) == ("é", turn.usage, turn.cost_micro_usd)
    assert ledger.sums(by=["user"])[0].counts.turns == 1
    clock.now += 1
    with database.read() as connection:
        window = queries.user_window(connection, "é", turn.started_at - 1, clock.now, now=clock.now)
    assert window.requests == 1


def test_record_from_many_threads(ledger: Ledger, database: Database, make_turn: MakeTurn, tmp_path: Path) -> None:
    """Two writers that update the same sums wait for each other, and lose nothing."""
    second = Ledger(database, Spool(tmp_path / "spool", reserve_bytes=1 << 14))
    with ThreadPoolExecutor(16) as pool:
        made = [make_turn(user=f"user-{number % 3}") for number in range(300)]
        places = pool.map(lambda pair: (ledger, second)[pair[0] % 2].record(pair[1], 20), enumerate(made))
        assert set(places) == {"database"}
    second.close()
    assert turns(database) == {"user-0": 100, "user-1": 100, "user-2": 100}


def test_schema_created_concurrently(postgresql: PostgresqlServer) -> None:
    """Workers that start at the same time create the tables once."""
    url = postgresql.url
    start = threading.Barrier(8)

    def first_use(_number: int) -> int:
        database = Database(url)
        start.wait()
        with database.write() as connection:
            db.add_event(connection, 0.0, "system", "test", "subject")
        database.close()
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(first_use, range(8))) == 8
    database = Database(url)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(db.event)) == 8
    database.close()


def test_pages(ledger: Ledger, database: Database, make_turn: MakeTurn) -> None:
    """The queries of the dashboard and of admission work."""
    for number in range(3):
        ledger.record(make_turn(id=f"t{number}", model=f"gpt-{number}"))
    turn_filter = history.TurnFilter(model="gpt-1")
    assert [turn.id for turn in history.turns(database, turn_filter).turns] == ["t1"]
    assert history.names(database, 0) == (["alice"], ["gpt-0", "gpt-1", "gpt-2"])
    window_history = WindowHistory(database)
    window_history.note(
        DEFAULT_CREDENTIAL, RateLimits((RateLimit("codex", RateLimitWindow(5.0, 300, 2_000_000_000)),)), time.time()
    )
    window_history.flush()
    assert window_history.shares(DEFAULT_CREDENTIAL, "5h") is not None
    with database.read() as connection:
        assert list(window_history.states(connection, DEFAULT_CREDENTIAL)) == ["5h"]


def test_rate_limits(database: Database) -> None:
    """The newest rate limits that any worker has seen are stored."""
    for at in (1.0, 3.0, 2.0):
        with database.write() as connection:
            queries.write_rate_limits(connection, DEFAULT_CREDENTIAL, {"seen": at}, at)
    with database.read() as connection:
        assert queries.read_rate_limits(connection, DEFAULT_CREDENTIAL) == ({"seen": 3.0}, 3.0)


def test_users(database: Database) -> None:
    """A user is found by the token from being added until being removed."""
    directory, accounts = UserDirectory((), database), Accounts((), database)
    token = accounts.add(User("carol", admin=True), actor="cli")
    assert directory.authenticate(token).name == "carol"
    accounts.remove("carol", actor="cli")
    assert accounts.all() == []


def test_service_while_the_server_is_down(postgresql: PostgresqlServer, service: ServiceFactory) -> None:
    """Turns continue without the server. Their records are spooled to disk, and written once when it is back."""
    url = postgresql.url
    running = service(workers=2, database_url=url)
    assert [post(running).status_code for _ in range(4)] == [200] * 4
    postgresql.stop()
    try:
        assert [post(running).status_code for _ in range(4)] == [200] * 4
    finally:
        postgresql.start()
    deadline = time.monotonic() + 30
    with contextlib.closing(Database(url)) as database:
        while turns(database) != {"alice": 8}:
            assert time.monotonic() < deadline, turns(database)
            threading.Event().wait(0.1)


def test_settlements_and_owners(database: Database, ledger: Ledger, make_turn: MakeTurn, tmp_path: Path) -> None:
    """A turn is settled once by many threads, and an object keeps the owner who claimed it first."""
    turn = make_turn(status="in_progress", estimated=True)
    ledger.record(turn)
    outcome = Outcome("completed", usage=Usage(1000, 0, 500), model="gpt-5")
    settlements = Settlements(ledger, {})
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: settlements.settle(turn.id, outcome), range(16))) == {"database"}
    [counts] = [each.counts for each in ledger.sums()]
    assert (counts.turns, counts.turns_estimated, counts.input_tokens, counts.output_tokens) == (1, 0, 1000, 500)
    owners = Owners(database, Spool(tmp_path / "owners"))
    for user in ("alice", "bob"):
        owners.claim(user, [NamedObject("file-1", "file")], turn=turn.id)
    assert owners.owner_of("file-1") == Owner("alice", turn.id)
    assert owners.ids_of("alice", "file") == {"file-1"}
    assert owners.not_owned("bob", {"file-1"}) == {"file-1"}
    owners.close()
