"""Restores a backup: in one transaction, into SQLite or PostgreSQL, while the service may run.

A backup is first copied to a database of its own below ``state_path``, where it is upgraded and completed. Only what is
found to be whole there is copied to the state database, and only what is then found there again is committed.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import sqlalchemy as sa

from ocm_wsgi.accounting import usages_export
from ocm_wsgi.accounting.ledger import store_records
from ocm_wsgi.accounting.weeks import Weeks
from ocm_wsgi.errors import StateError, TransferFailed
from ocm_wsgi.ownership.owners import store_claims
from ocm_wsgi.storage import upgrades
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.engines import create_engine
from ocm_wsgi.storage.files import make_private_folder
from ocm_wsgi.storage.schema import SCHEMA_VERSION, add_event, meta
from ocm_wsgi.transfer.backup_file import Content, Manifest, opened, read_description, write_errors
from ocm_wsgi.transfer.rows import (
    checksum_of,
    count_rows,
    read_chunks,
    renumber,
    tables_of,
    write_chunk,
)
from ocm_wsgi.transfer.steps import Progress, advancing

_DAMAGED = ("file is not a database", "database disk image is malformed")
_OTHER_CONNECTIONS = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@dataclass(frozen=True)
class Backup:
    """A backup that was found to be whole."""

    path: Path
    manifest: Manifest
    content: Content


def read_backup(path: Path, progress: Progress) -> Backup:
    """Read what a backup contains, and compare its tables with their checksums.

    :raises TransferFailed: it is damaged, from a newer release, or not a backup.
    :raises OSError: it cannot be read.
    """
    with opened(path) as engine, engine.connect() as connection, connection.begin():
        manifest, content = read_description(connection, path)
        if manifest.schema > SCHEMA_VERSION:
            raise TransferFailed(
                f"{path} was made by the newer release {manifest.release} (schema {manifest.schema}; this release "
                f"knows {SCHEMA_VERSION}). Install that release first."
            )
        tables = {table.name: table for table in tables_of(connection)}
        progress.begin("Checking", sum(checksum.rows for checksum in manifest.tables.values()))
        for name, checksum in manifest.tables.items():
            found = checksum_of(advancing(progress, read_chunks(connection, tables[name]))) if name in tables else None
            if found != checksum:
                raise TransferFailed(f"{path} is damaged: its table {name} does not match its checksum.")
    return Backup(path, manifest, content)


def restore(
    backup: Backup,
    database: Database,
    state_path: Path,
    *,
    force: bool,
    progress: Progress,
    clock: Callable[[], float] = time.time,
) -> None:
    """Replace the state with that of a backup, or change nothing.

    :param force: also if the state is in use, not empty, or damaged. A damaged file is renamed.
    :raises TransferFailed: that was refused, or failed.
    :raises StateError: the database cannot be used.
    :raises OSError: ``state_path`` cannot be written.
    """
    require_replaceable(database, force=force)
    with _staging(state_path) as staging:
        _prepare(backup, staging, progress, clock())
        with staging.read() as source, database.write() as target:
            _replace(source, target, force=force, progress=progress)


def require_replaceable(database: Database, *, force: bool) -> None:
    """Raise unless the state may be replaced.

    :raises TransferFailed: it is in use, not empty, or damaged, and ``force`` was not given.
    :raises StateError: the database cannot be used.
    """
    if database.path is not None and not database.path.exists():
        return
    try:
        with database.snapshot() as (connection, _):
            if force:
                # Damage may be anywhere.
                for table in tables_of(connection):
                    checksum_of(read_chunks(connection, table))
                return
            is_used = connection.dialect.name == "postgresql" and bool(connection.scalar(_OTHER_CONNECTIONS))
            _require_empty(connection)
    except StateError as exc:
        if database.path is None or exc.detail not in _DAMAGED:
            raise
        if not force:
            raise TransferFailed(f"The state database {database.path} is damaged. --force sets it aside.") from exc
        _set_aside(database.path)
        return
    if is_used or (database.path is not None and _is_open_elsewhere(database.path)):
        raise TransferFailed(
            "The state is in use, probably by the service. Stop it first, or use --force to replace the state under it."
        )


@contextlib.contextmanager
def _staging(state_path: Path) -> Iterator[Database]:
    """Return a new database below ``state_path``, and remove it afterwards, or that of a killed process before."""
    make_private_folder(state_path)
    folder = state_path / "restoration"
    lock = filelock.FileLock(f"{folder}.lock", mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise TransferFailed("Another restoration is running. Nothing was changed.") from None
    try:
        shutil.rmtree(folder, ignore_errors=True)
        make_private_folder(folder)
        with contextlib.closing(Database(f"sqlite:///{folder}/staging.sqlite3")) as staging:
            yield staging
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _prepare(backup: Backup, staging: Database, progress: Progress, now: float) -> None:
    """Fill the staging database with what the backup contains, as a database of this release."""
    _copy(backup, staging, progress)
    # The first of these opens the database, which upgrades it.
    store_records(staging, backup.content.turns, Weeks())
    store_claims(staging, backup.content.claims)
    manifest = backup.manifest
    detail = {"created_at": manifest.created_at, "release": manifest.release, "database": manifest.database}
    with staging.write() as connection:
        usages_export.expect_changes(connection)
        add_event(connection, now, "cli", "state.restored", backup.path.name, detail)


def _copy(backup: Backup, staging: Database, progress: Progress) -> None:
    progress.begin("Preparing", sum(checksum.rows for checksum in backup.manifest.tables.values()))
    engine = create_engine(staging.url)
    path = backup.path.parent if staging.path is None else staging.path
    try:
        with (
            opened(backup.path) as origin,
            origin.connect() as source,
            engine.connect().execution_options(ocm_writes=True) as target,
            source.begin(),
            write_errors(path),
            target.begin(),
        ):
            upgrades.apply(target, 0, until=backup.manifest.schema)
            for table in tables_of(source):
                for chunk in advancing(progress, read_chunks(source, table)):
                    write_chunk(target, table, chunk)
    finally:
        engine.dispose()


def _replace(source: sa.Connection, target: sa.Connection, *, force: bool, progress: Progress) -> None:
    """Replace all rows, in the transaction of ``target``, and compare what is there then with what was read."""
    tables = tables_of(source)
    if target.dialect.name == "postgresql":
        names = ", ".join(map(target.dialect.identifier_preparer.format_table, tables))
        # Others go on reading what was there, and wait to write.
        target.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
    if not force:
        # Looked at again: someone may have added a user in the meantime.
        _require_empty(target)
    progress.begin("Restoring", 2 * sum(count_rows(source, tables).values()))
    for table in tables:
        target.execute(table.delete())
        for chunk in advancing(progress, read_chunks(source, table)):
            write_chunk(target, table, chunk)
    renumber(target, tables)
    for table in tables:
        expected = checksum_of(read_chunks(source, table))
        if checksum_of(advancing(progress, read_chunks(target, table))) != expected:
            raise TransferFailed(f"The table {table.name} differs from the backup. Nothing was changed.")


def _require_empty(connection: sa.Connection) -> None:
    counts = count_rows(connection, tables_of(connection))
    filled = {name: count for name, count in counts.items() if count and name != meta.name}
    if filled:
        found = ", ".join(f"{name} ({count:,})" for name, count in filled.items())
        raise TransferFailed(f"The state is not empty: it has rows in {found}. --force replaces them.")


def _is_open_elsewhere(path: Path) -> bool:
    """Return whether another process has an SQLite database open."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        try:
            # A process that has the file open in WAL mode holds a shared lock on it, between transactions too.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


def _set_aside(path: Path) -> None:
    """Rename a damaged file, and the files that SQLite has beside it, which belong to no other."""
    suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for extension in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + extension).rename(path.with_name(f"{path.name}{suffix}{extension}"))
