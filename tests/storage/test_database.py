"""The state database on real files, used by real processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
import sqlalchemy as sa

from ocm_wsgi.errors import StateError, StateTooNew
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import SCHEMA_VERSION, add_event, event, get_meta, meta, set_meta, user


def test_database_unused(database: Database, state_path: Path) -> None:
    """Creating and closing a database accesses no file."""
    database.close()
    assert not state_path.exists()


def test_database_modes(database: Database, state_path: Path) -> None:
    """Folder and files are private to the owner with any umask."""
    before = os.umask(0)
    try:
        with database.write() as connection:
            set_meta(connection, "key", "value")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state_path, *state_path.iterdir())}
    assert modes.pop("state") == 0o700
    assert "ocm.sqlite3-wal" in modes
    assert set(modes.values()) == {0o600}


def test_database_pragmas(database: Database) -> None:
    """Every connection has WAL, NORMAL syncs and foreign keys."""
    with database.read() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas] == ["wal", 1, 1]


def test_database_created_by_ten_processes(process: Callable[..., Popen[str]]) -> None:
    """Ten processes that use a new database at the same time all succeed."""
    assert process("create", "10").communicate(timeout=30)[0] == "10\n"


def test_database_newer_schema(database: Database) -> None:
    """A database of a newer release is refused; the message names both versions and a solution."""
    with database.write() as connection:
        set_meta(connection, "schema_version", str(SCHEMA_VERSION + 1))
    database.close()
    with (
        pytest.raises(
            StateTooNew, match=rf"schema {SCHEMA_VERSION + 1}; this release knows {SCHEMA_VERSION}.*database_url"
        ),
        database.read(),
    ):
        pass


def test_database_garbage(database: Database, state_path: Path) -> None:
    """A file that is not a database is reported as such, and unchanged."""
    state_path.mkdir()
    path = state_path / "ocm.sqlite3"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StateError) as caught, database.read():
        pass
    assert caught.value.detail == "file is not a database"
    assert path.read_bytes() == b"no database" * 100


def test_database_unwritable_place(tmp_path: Path) -> None:
    """A folder that cannot be created is a ``StateError``."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be created"), Database(f"sqlite:///{tmp_path}/file/x").read():
        pass


def test_write_rolls_back(database: Database) -> None:
    """An exception rolls the transaction back, and is passed on unchanged."""

    def work() -> None:
        with database.write() as connection:
            set_meta(connection, "key", "value")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    with database.read() as connection:
        assert get_meta(connection, "key") is None


def test_write_directly_is_atomic(database: Database) -> None:
    """A transaction that bypasses SQLAlchemy is atomic and exclusive, too, and its failures are ``StateError``."""
    insert = meta.insert()

    def write(*values: str | None) -> None:
        with database.write_directly() as direct, contextlib.closing(sqlite3.connect(database.path or "")) as other:
            other.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            for value in values:
                assert direct.run(insert, {"key": value, "value": value}) == 1
                assert other.execute("SELECT * FROM meta WHERE key = ?", (value,)).fetchall() == []

    with pytest.raises(StateError) as caught:
        write("first", None)
    assert "NOT NULL" in (caught.value.detail or "")
    write("first", "second")
    with database.read() as connection:
        assert get_meta(connection, "second") == "second"


def test_write_integrity_error(database: Database) -> None:
    """A row that violates a constraint raises SQLAlchemy's own error."""
    row = {"name": "alice", "token_sha256": "0", "created_at": 0.0, "updated_at": 0.0}
    with database.write() as connection:
        connection.execute(user.insert(), row)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(user.insert(), row)


def test_write_is_exclusive(database: Database, process: Callable[..., Popen[str]]) -> None:
    """A writer waits for another process's transaction; a reader does not."""
    with database.write() as connection:
        set_meta(connection, "key", "before")
    other = process("hold")
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with database.read() as connection:
        assert get_meta(connection, "key") == "before"
    with sqlite3.connect(database.path or "", timeout=0, isolation_level=None) as writer:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.execute("BEGIN IMMEDIATE")
        other.communicate()
    writer.close()
    with database.write() as connection:
        set_meta(connection, "key", "after")


@pytest.mark.parametrize("is_replaced", [False, True])
def test_database_removed(database: Database, state_path: Path, is_replaced: bool) -> None:
    """A file that was removed or replaced is noticed at the next use: nothing more is written to the old one."""
    with database.write() as connection:
        set_meta(connection, "key", "old")
    for path in list(state_path.glob("ocm.sqlite3*")):
        path.unlink()
    if is_replaced:
        other = Database(str(database.url))
        with other.write() as connection:
            set_meta(connection, "key", "new")
        other.close()
    with database.read() as connection:
        assert get_meta(connection, "key") == ("new" if is_replaced else None)


@pytest.mark.parametrize("is_made_again", [False, True])
@pytest.mark.parametrize("way", [Database.write, Database.write_directly])
def test_database_removed_while_writing(
    database: Database, state_path: Path, way: Callable[[Database], AbstractContextManager[object]], is_made_again: bool
) -> None:
    """A commit to a file removed in the meantime is an error, also if another thread has created a new one."""

    def work() -> None:
        with way(database):
            (state_path / "ocm.sqlite3").unlink()
            if is_made_again:
                with database.read():
                    pass

    with pytest.raises(StateError, match="removed or replaced"):
        work()
    with database.write_directly() as direct:
        direct.run(meta.insert(), {"key": "key", "value": "new"})
    with database.read() as connection:
        assert get_meta(connection, "key") == "new"


def test_add_event(database: Database) -> None:
    """An event is stored with its detail."""
    with database.write() as connection:
        add_event(connection, 5.0, "cli", "add-user", "alice", {"models": ["gpt-*"]})
    with database.read() as connection:
        row = connection.execute(sa.select(event)).one()
    assert tuple(row)[1:] == (5.0, "cli", "add-user", "alice", {"models": ["gpt-*"]})


def test_database_repr() -> None:
    """A password in the URL is not shown."""
    assert "secret" not in repr(Database("postgresql+psycopg://ocm:secret@127.0.0.1/ocm"))
