"""The format of a backup: one SQLite file with the state's tables, and a table that says what they must contain.

The tables have the schema of the database that was backed up. The further table ``backup`` has keys and values: the
manifest, the records that waited for the database, and the encrypted credentials.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from pydantic import TypeAdapter

from ocm_wsgi.errors import TransferFailed
from ocm_wsgi.storage import upgrades
from ocm_wsgi.storage.engines import create_engine
from ocm_wsgi.storage.files import sync_folder
from ocm_wsgi.transfer.rows import Checksum, Row, checksum_of, read_chunks, write_chunk

#: Incremented when an earlier release could not read the file.
FORMAT = 1

_TABLE = sa.Table(
    "backup",
    sa.MetaData(),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_MANIFEST = "manifest"
_CONTENT = "content"
_SHA256 = "sha256"


@dataclass(frozen=True)
class Manifest:
    """What a backup is.

    :ivar created_at: when the database was read, in Unix seconds.
    :ivar release: the release of ocm-wsgi that made it.
    :ivar schema: the version of the schema.
    :ivar database: ``sqlite`` or ``postgresql``, from which it was made.
    :ivar tables: the checksum of each table.
    """

    created_at: float
    release: str
    schema: int
    database: str
    tables: Mapping[str, Checksum]
    format: int = FORMAT


@dataclass(frozen=True)
class Content:
    """What a backup contains beside the tables.

    :ivar turns: records of turns, and of their settlements, that were not in the database yet.
    :ivar claims: records of owners of stored objects that were not in the database yet.
    :ivar credentials: the owner's credentials by the tags of their accounts, encrypted together, or ``None``.
    """

    turns: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    credentials: str | None = field(default=None, repr=False)


_MANIFESTS = TypeAdapter(Manifest)
_CONTENTS = TypeAdapter(Content)


class NewBackup:
    """A backup that is being written. Use as a context manager, at the end of which the file gets its name.

    Until then it is named ``PATH.partial`` (0600). A killed process leaves that behind, and the next backup overwrites
    it. After an exception, the file is removed and one that has the name already is unchanged.

    :raises TransferFailed: another process is writing it, or it cannot be written. So do all methods.
    :raises OSError: it cannot be created, or get its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _require_own(self._descriptor, self._partial)
            os.fchmod(self._descriptor, 0o600)
            os.ftruncate(self._descriptor, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._engine = create_engine(sa.URL.create("sqlite", database=str(self._partial)))
        sa.event.listen(self._engine, "connect", _turn_off_journal)

    def __enter__(self) -> NewBackup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._engine.dispose()
            if error is None:
                os.fsync(self._descriptor)
                os.replace(self._partial, self._path)
                sync_folder(self._path.parent)
            else:
                self._partial.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    @contextlib.contextmanager
    def write(self) -> Iterator[BackupWriter]:
        """Open the only transaction that writes the file."""
        with self._engine.connect().execution_options(ocm_writes=True) as connection:
            transaction = connection.begin()
            yield BackupWriter(connection, self._partial)
            with write_errors(self._partial):
                transaction.commit()

    def checksum(self, table: sa.Table) -> Checksum:
        """Return the checksum of a table as it was written."""
        with write_errors(self._partial), self._engine.connect() as connection, connection.begin():
            return checksum_of(read_chunks(connection, table))


@dataclass(frozen=True)
class BackupWriter:
    """The transaction that writes a backup. All methods raise ``TransferFailed`` if that fails."""

    _connection: sa.Connection
    _path: Path

    def create_tables(self, schema: int) -> None:
        """Create the state's tables as they were in a version of the schema."""
        with write_errors(self._path):
            upgrades.apply(self._connection, 0, until=schema)

    def insert(self, table: sa.Table, rows: list[Row]) -> None:
        """Insert rows of a table."""
        with write_errors(self._path):
            write_chunk(self._connection, table, rows)

    def describe(self, manifest: Manifest, content: Content) -> None:
        """Store what the backup is and contains beside the tables."""
        values = {_MANIFEST: json.dumps(asdict(manifest)), _CONTENT: json.dumps(asdict(content))}
        values[_SHA256] = _sha256(values)
        rows = [{"key": key, "value": value} for key, value in values.items()]
        with write_errors(self._path):
            _TABLE.create(self._connection)
            self._connection.execute(_TABLE.insert(), rows)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Translate failures of a file that is being written to ``TransferFailed``."""
    try:
        yield
    except sa.exc.DatabaseError as exc:
        raise TransferFailed(f"{path} cannot be written. Nothing was changed.", detail=str(exc.orig)) from exc


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sa.Engine]:
    """Open a backup, for reading only.

    :raises TransferFailed: the file is not a database.
    :raises OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise TransferFailed(f"{path} is not a backup made by `ocm backup`.")
    url = sa.URL.create("sqlite", database=f"file:{quote(str(path.absolute()))}", query={"mode": "ro", "uri": "true"})
    engine = create_engine(url)
    try:
        yield engine
    except (sa.exc.SQLAlchemyError, ValueError, TypeError, LookupError) as exc:
        # Not only SQLite finds damage: it returns texts that are not JSON, and values of other types.
        raise TransferFailed(f"{path} is damaged.", detail=str(getattr(exc, "orig", None) or exc)) from exc
    finally:
        engine.dispose()


def read_description(connection: sa.Connection, path: Path) -> tuple[Manifest, Content]:
    """Return what a backup is and contains beside the tables.

    :raises TransferFailed: the file is not a backup, is damaged, or is from a newer release.
    """
    if not sa.inspect(connection).has_table(_TABLE.name):
        raise TransferFailed(f"{path} is a database, but not a backup made by `ocm backup`.")
    values: dict[str, str] = {row.key: row.value for row in connection.execute(sa.select(_TABLE))}
    if values.pop(_SHA256, None) != _sha256(values):
        raise TransferFailed(f"{path} is damaged: its description does not match its checksum.")
    try:
        manifest, content = json.loads(values[_MANIFEST]), values[_CONTENT]
        if manifest["format"] > FORMAT:
            raise TransferFailed(f"{path} was made by the newer release {manifest['release']}. Install that one first.")
        return _MANIFESTS.validate_python(manifest), _CONTENTS.validate_json(content)
    except (ValueError, LookupError, TypeError) as exc:
        raise TransferFailed(f"{path} is not a backup that this release can read.") from exc


def _turn_off_journal(connection: Any, _record: object) -> None:
    # The file is used only if it is whole, so it needs no journal, which would have to be removed too.
    connection.execute("PRAGMA journal_mode = OFF")


def _sha256(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _require_own(descriptor: int, partial: Path) -> None:
    """Lock the file, and make sure that it still has its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), partial.stat()):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise TransferFailed(f"Another process is writing {partial}. Nothing was changed.")
