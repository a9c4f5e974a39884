"""Makes a backup: a consistent copy of the database, with the records that wait for it, while the service may run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ocm_wsgi import __version__
from ocm_wsgi.accounting.spool import waiting_records
from ocm_wsgi.errors import StateError, TransferFailed
from ocm_wsgi.storage.database import Database
from ocm_wsgi.transfer.backup_file import BackupWriter, Content, Manifest, NewBackup
from ocm_wsgi.transfer.rows import Checksum, Summing, count_rows, read_chunks, tables_of
from ocm_wsgi.transfer.sealing import seal
from ocm_wsgi.transfer.steps import Progress, advancing


def back_up(
    database: Database,
    state_path: Path,
    path: Path,
    *,
    credentials: Mapping[str, Mapping[str, Any]] | None = None,
    passphrase: str = "",
    progress: Progress,
    clock: Callable[[], float] = time.time,
) -> Manifest:
    """Make a backup, in place of any file of that name. A database of an earlier schema is not upgraded.

    :param credentials: contents of ``auth.json`` by the tags of the accounts, to be encrypted with the passphrase.
    :raises TransferFailed: it could not be made. Nothing was changed.
    :raises StateError: the state cannot be read. Nothing was changed.
    :raises OSError: as for ``TransferFailed``.
    """
    sealed = seal(credentials, passphrase) if credentials is not None else None
    # Before the snapshot: what is written to the database in between is then in both, and counts once.
    content = Content(waiting_records(state_path / "spool"), waiting_records(state_path / "owners"), sealed)
    with NewBackup(path) as new, database.snapshot() as (connection, version):
        if version is None:
            raise StateError("The state database has no tables yet; there is nothing to back up.")
        created_at = clock()
        tables = tables_of(connection)
        rows = sum(count_rows(connection, tables).values())
        with new.write() as writer:
            writer.create_tables(version)
            progress.begin("Copying", rows)
            sums = {table.name: _copy(connection, table, writer, progress) for table in tables}
            manifest = Manifest(created_at, __version__, version, database.url.get_backend_name(), sums)
            writer.describe(manifest, content)
        progress.begin("Checking", rows)
        for table in tables:
            if new.checksum(table) != sums[table.name]:
                raise TransferFailed(f"The copy of the table {table.name} differs from the original. Check the disk.")
            progress.advance(sums[table.name].rows)
    return manifest


def _copy(connection: sa.Connection, table: sa.Table, writer: BackupWriter, progress: Progress) -> Checksum:
    summing = Summing()
    for chunk in advancing(progress, read_chunks(connection, table)):
        writer.insert(table, chunk)
        summing.add(chunk)
    return summing.result()
