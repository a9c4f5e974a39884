"""State databases of each earlier schema, while workers of those releases are still using them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ocm_wsgi.accounting import history, queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.errors import StateError
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.storage import engines, upgrades
from ocm_wsgi.storage.creation import stored_version
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import SCHEMA_VERSION, insert_for, metadata
from tests.postgresql_server import PostgresqlServer
from tests.storage import schema_texts

EARLIER = schema_texts.VERSIONS[:-1]
#: The others are between these.
FIRST_AND_LAST = (EARLIER[0], EARLIER[-1])
TURN = Turn(
    "turn", 3600.5, "alice", "default", "gpt-5", "default", 0, None, Usage(100, 40, 10, 4), 1500,
    "sse", "completed", 200, 1, 2,
)  # fmt: skip
#: How long a turn may wait for an upgrade of PostgreSQL's tables: longer than any machine is busy.
TURN_TIMEOUT = "60s"
SUMS = ("turns", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_micro_usd")


class EarlierWorker:
    """A worker that has opened the database when it had the schema of an earlier release, and knows no other."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._tables = sa.MetaData()
        self._tables.reflect(engine, only=("turn", "turn_hour"))
        self.recorded = 0

    def record(self, lock_timeout: str = "") -> None:
        """Record a turn, with the columns that the release knows.

        :param lock_timeout: on PostgreSQL, how long to wait for a table.
        """
        turn, hour = self._tables.tables["turn"], self._tables.tables["turn_hour"]
        known = [column.name for column in hour.columns if not column.primary_key]
        values: dict[str, Any] = {**dict.fromkeys(known, 0), **record_of(TURN), "turns": 1, "hour": 3600}
        values |= {"id": f"{id(self)}-{self.recorded}", "estimated": False}
        insert = insert_for(self._engine.dialect.name, hour)
        added = {name: hour.c[name] + insert.excluded[name] for name in known}
        upsert = insert.on_conflict_do_update(index_elements=[*hour.primary_key.columns], set_=added)
        with self._engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
            if lock_timeout:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{lock_timeout}'")
            row = {column.name: values[column.name] for column in turn.columns}
            connection.execute(turn.insert(), row)
            connection.execute(upsert, {column.name: values[column.name] or 0 for column in hour.columns})
        self.recorded += 1


@pytest.fixture(params=["sqlite", "postgresql"])
def make_url(request: pytest.FixtureRequest, state_path: Any) -> Callable[[], str]:
    """Return a function that returns the URL of a new, empty database."""
    if request.param == "sqlite":
        state_path.mkdir()
        numbers = itertools.count()
        return lambda: f"sqlite:///{state_path}/{next(numbers)}.sqlite3"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return lambda: server.url


@pytest.fixture
def earlier(make_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], sa.Engine]]:
    """Return a function that creates a database of an earlier schema, and returns its engine."""
    # SQLite lets writers wait without an order: on a busy machine, one may wait longer than a turn should.
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 60.0)
    with ExitStack() as opened:

        def create(version: int) -> sa.Engine:
            engine = engines.create_engine(sa.make_url(make_url()))
            opened.callback(engine.dispose)
            if engine.dialect.name == "sqlite":
                with engine.connect() as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
            schema_texts.create(engine, version)
            return engine

        yield create


def open_database(engine: sa.Engine) -> Database:
    """Open an engine's database as this release does."""
    return Database(engine.url.render_as_string(hide_password=False))


def layout(engine: sa.Engine) -> dict[str, Any]:
    """Return the columns, keys and indexes of all tables."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        return {
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(table)
                },
                "key": inspector.get_pk_constraint(table)["constrained_columns"],
                "indexes": {index["name"]: index["column_names"] for index in inspector.get_indexes(table)},
            }
            for table in inspector.get_table_names()
        }


@pytest.mark.parametrize("dialect_name", schema_texts.DIALECTS)
def test_schema_text(dialect_name: str) -> None:
    """The tables of a schema version do not change. A change is a new version, with a revision and a file of its own.

    ``python -m tests.storage.schema_texts`` writes the file.
    """
    assert list(range(1, SCHEMA_VERSION + 1)) == schema_texts.VERSIONS
    assert schema_texts.path_of(SCHEMA_VERSION, dialect_name).read_text() == schema_texts.current_text(dialect_name)


def test_steps() -> None:
    """There is a revision for each version, and each says what it does."""
    steps = upgrades.steps_after(0)
    assert [step.version for step in steps] == schema_texts.VERSIONS
    assert all(step.text and not step.text.endswith(".") for step in steps)
    assert upgrades.steps_after(SCHEMA_VERSION) == []


@pytest.mark.parametrize("version", EARLIER)
def test_upgraded_schema(earlier: Callable[[int], sa.Engine], make_url: Callable[[], str], version: int) -> None:
    """An upgraded database is like one that this release has created; Alembic finds no difference either."""
    engine = earlier(version)
    with closing(open_database(engine)) as database, database.read() as connection:
        assert stored_version(connection) == SCHEMA_VERSION
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    created = engines.create_engine(sa.make_url(make_url()))
    with closing(open_database(created)) as database, database.read():
        pass
    assert layout(engine) == layout(created)
    created.dispose()


@pytest.mark.parametrize("version", schema_texts.VERSIONS)
def test_revisions_from_nothing(earlier: Callable[[int], sa.Engine], make_url: Callable[[], str], version: int) -> None:
    """The revisions up to a version create the tables that its release did."""
    engine = engines.create_engine(sa.make_url(make_url()))
    with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
        upgrades.apply(connection, 0, until=version)
    assert layout(engine) == layout(earlier(version))
    engine.dispose()


@pytest.mark.parametrize("has_index", [False, True])
def test_upgrade_of_what_was_between_two_schemas(earlier: Callable[[int], sa.Engine], has_index: bool) -> None:
    """A database of schema 2 that has the table of stored objects, with some of its indexes, gets the others."""
    engine = earlier(2)
    with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
        table = metadata.tables["stored_object"].to_metadata(sa.MetaData())
        for index in sorted(table.indexes, key=lambda index: str(index.name))[has_index:]:
            table.indexes.remove(index)
        table.create(connection)
    with closing(open_database(engine)) as database, database.read() as connection:
        assert len(sa.inspect(connection).get_indexes("stored_object")) == 3


@pytest.mark.parametrize("version", FIRST_AND_LAST)
def test_upgrade_under_load(earlier: Callable[[int], sa.Engine], version: int) -> None:
    """Workers of an earlier release record turns before, during and after the upgrade, and so do those of this one."""
    engine = earlier(version)
    workers = [EarlierWorker(engine) for _ in range(2)]
    is_over = threading.Event()
    have_begun = threading.Barrier(3)

    def work(worker: EarlierWorker) -> None:
        worker.record()
        have_begun.wait(60)
        while not is_over.wait(0.002):
            worker.record()
        worker.record()

    new = [
        Turn(**{**vars(TURN), "id": f"new-{number}", "usage": Usage(200, 0, 20, items=2), "estimated": True})
        for number in range(4)
    ]

    def open_and_record(turn: Turn) -> None:
        with closing(open_database(engine)) as database, database.write_directly() as cursor:
            queries.store_records(cursor, [record_of(turn)])

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, worker) for worker in workers]
        have_begun.wait(60)
        opening = [pool.submit(open_and_record, turn) for turn in new]
        try:
            for future in opening:
                future.result(60)
        finally:
            is_over.set()
        for future in running:
            future.result(60)
    count = sum(worker.recorded for worker in workers)
    with closing(open_database(engine)) as database, database.read() as connection:
        (total,) = queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)
        assert connection.scalar(sa.select(sa.func.count()).select_from(metadata.tables["turn"])) == count + 4
    assert [getattr(total.counts, name) for name in SUMS] == [
        count + 4, 100 * count + 800, 40 * count, 10 * count + 80, 4 * count, 1500 * (count + 4),
    ]  # fmt: skip
    assert (total.counts.turns_estimated, total.counts.items) == (4, 8)


@pytest.mark.parametrize("version", FIRST_AND_LAST)
def test_turns_of_an_earlier_release(earlier: Callable[[int], sa.Engine], version: int) -> None:
    """Turns that an earlier release records before and after the upgrade are read as it wrote them."""
    engine = earlier(version)
    worker = EarlierWorker(engine)
    worker.record()
    with closing(open_database(engine)) as database:
        history.turns(database, history.TurnFilter())
        worker.record()
        found = history.turns(database, history.TurnFilter()).turns
    assert [Turn(**{**vars(turn), "id": "turn"}) for turn in found] == [TURN, TURN]


def test_upgrade_gives_way(postgresql: PostgresqlServer) -> None:
    """An upgrade that cannot have a table of PostgreSQL's at once lets turns have it, and tries again."""
    engine = engines.create_engine(sa.make_url(postgresql.url))
    schema_texts.create(engine, 1)
    worker = EarlierWorker(engine)
    with ThreadPoolExecutor(1) as pool, closing(open_database(engine)) as database:
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("SELECT count(*) FROM turn")
            upgrade = pool.submit(history.turns, database, history.TurnFilter())
            wait_until(lambda: is_waiting(connection))
            # Waits for the upgrade, which waits for the end of this context.
            worker.record(TURN_TIMEOUT)
            assert not upgrade.done()
        assert len(upgrade.result(60).turns) == 1
    engine.dispose()


def is_waiting(connection: sa.Connection) -> bool:
    """Return whether a transaction waits for a table of PostgreSQL's."""
    query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")
    return bool(connection.scalar(query))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_failed_upgrade(earlier: Callable[[int], sa.Engine]) -> None:
    """A database that cannot be upgraded whole is left as it was: the version says what is there."""
    engine = earlier(1)
    with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
        # The last revision cannot create this.
        connection.exec_driver_sql("CREATE VIEW stored_object AS SELECT 1 AS one")
    before = layout(engine)
    with closing(open_database(engine)) as database:
        with pytest.raises(StateError), database.read():
            pass
        assert layout(engine) == before
        with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
            assert stored_version(connection) == 1
            connection.exec_driver_sql("DROP VIEW stored_object")
        assert history.turns(database, history.TurnFilter()).turns == []


def test_database_not_upgraded(earlier: Callable[[int], sa.Engine]) -> None:
    """A database that may not be upgraded is refused, and stays as it is."""
    engine = earlier(1)
    before = layout(engine)
    url = engine.url.render_as_string(hide_password=False)
    with (
        closing(Database(url, upgrades=False)) as database,
        pytest.raises(StateError, match=f"has schema 1 and needs an upgrade to schema {SCHEMA_VERSION}"),
        database.read(),
    ):
        pass
    assert layout(engine) == before


def test_alembic_not_imported(database: Database, state_path: Any) -> None:
    """Opening a database of this release does not import Alembic, which takes a quarter of a second."""
    with database.read():
        pass
    program = f"""if True:
        import sys
        from ocm_wsgi.storage.database import Database
        for url in "sqlite:///{state_path}/ocm.sqlite3", "sqlite:///{state_path}/new.sqlite3":
            with Database(url).read():
                pass
        print("alembic" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
