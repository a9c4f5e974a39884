"""The state database: connections that are safe to use across threads, processes and forks.

SQLite (WAL) by default; PostgreSQL works through the same code. Nothing is opened before its first use, and each
process opens its own connections.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa

from ocm_wsgi.errors import StateError
from ocm_wsgi.storage.creation import create_schema, is_due, require_current, stored_version
from ocm_wsgi.storage.driver_cursor import DriverCursor
from ocm_wsgi.storage.engines import create_engine
from ocm_wsgi.storage.files import make_private_folder
from ocm_wsgi.storage.per_process import PerProcess

#: How long the first use in a process waits for another process that is creating the schema.
CREATION_TIMEOUT_SECONDS = 30.0

_UNUSABLE = "The state database cannot be used at the moment."


class Database:
    """The state database. Opened at the first use; safe to create before a fork and to share between threads.

    :param url: a SQLAlchemy URL. For SQLite the folder (0700) and the file (0600) are created if missing.
    :param upgrades: whether the schema is created, or that of an earlier release upgraded, if necessary. Otherwise a
        database without the schema of this release raises ``StateError``, and opening one changes nothing.

    All failures of the database itself are raised as ``StateError``. ``sqlalchemy.exc.IntegrityError`` is not
    translated, because it concerns the caller's own rows.
    """

    def __init__(self, url: str, *, upgrades: bool = True) -> None:
        self.url = sa.make_url(url)
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:")
        self.path = Path(self.url.database or "") if is_file else None
        # Inherited ones stay, unused: closing an inherited SQLite connection would act on the parent's files.
        self._processes = PerProcess(lambda: _Process(self.url, self.path, upgrades=upgrades))

    def __repr__(self) -> str:
        return f"Database({self.url!r})"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a read-only transaction, which on SQLite sees one snapshot of the database throughout."""
        process = self._processes.get()
        with process.mapped_errors, process.opened().engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end of the context, or rolled back on an exception.

        On SQLite it is the only writer from the start. After the context ends without an exception, the changes
        survive the death of any process.

        :raises StateError: nothing was written or, rarely, when the commit itself failed, that is unknown.
        """
        process = self._processes.get()
        with process.mapped_errors:
            opened = process.opened()
            with opened.engine.connect() as connection:
                connection = connection.execution_options(ocm_writes=True)
                with connection.begin():
                    yield connection
            opened.require_same_file()

    @contextmanager
    def write_directly(self) -> Iterator[DriverCursor]:
        """Like :meth:`write`, but bypassing SQLAlchemy, for the writes of each turn. Always raises ``StateError``."""
        process = self._processes.get()
        with process.mapped_errors:
            opened = process.opened()
            connection = opened.driver_connection()
            try:
                cursor = connection.cursor()
                if opened.is_sqlite:
                    cursor.execute("BEGIN IMMEDIATE")
                yield DriverCursor(cursor, opened.engine.dialect)
                connection.commit()
                opened.require_same_file()
            except BaseException:
                # Without a rollback, SQLite would stay in the transaction until the last cursor is gone.
                with contextlib.suppress(process.driver_error):
                    connection.rollback()
                # Not reused, because the connection itself may have failed.
                connection.invalidate()
                raise
            opened.put_back(connection)

    @contextmanager
    def snapshot(self) -> Iterator[tuple[sa.Connection, int | None]]:
        """Open a read-only transaction that sees one snapshot throughout, of the database as it is.

        Creates and upgrades nothing, and needs no schema of this release.

        :return: the connection, and the version of the schema, or ``None`` if there is none.
        :raises StateTooNew: a newer release has created the schema.
        :raises StateError: the database does not exist, or cannot be read.
        """
        if self.path is not None and not self.path.exists():
            raise StateError(f"The state database {self.path} does not exist yet.")
        engine = create_engine(self.url)
        try:
            with self._processes.get().mapped_errors, engine.connect() as connection:
                if engine.name == "postgresql":
                    connection = connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                with connection.begin():
                    version = stored_version(connection)
                    is_due(version)
                    yield connection, version
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close this process's connections. The next use opens new ones."""
        self._processes.get().close()


class _Process:
    """The connections of one process."""

    def __init__(self, url: sa.URL, path: Path | None, *, upgrades: bool) -> None:
        self._url = url
        self._path = path
        self._upgrades = upgrades
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self.driver_error: type[Exception] = url.get_dialect().import_dbapi().Error
        self.mapped_errors = _MappedErrors(self.driver_error)

    def opened(self) -> _Opened:
        """Return the open database; open it again if the file has been removed or replaced."""
        opened = self._opened
        if opened is not None and opened.is_same_file():
            return opened
        with self._lock:
            if self._opened is not None and not self._opened.is_same_file():
                self._close()
            if self._opened is None:
                self._opened = _Opened(self._open(), self._path)
            return self._opened

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _open(self) -> sa.Engine:
        if self._path is not None:
            if self._upgrades:
                _create_private_file(self._path)
            elif not self._path.exists():
                raise StateError("The state database does not exist yet.")
        engine = create_engine(self._url)
        try:
            if self._upgrades:
                with self._creation_lock():
                    create_schema(engine)
            else:
                require_current(engine)
        except (OSError, filelock.Timeout) as exc:
            engine.dispose()
            raise StateError(_UNUSABLE, detail=str(exc)) from exc
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _creation_lock(self) -> AbstractContextManager[Any]:
        # If several processes turn on WAL at the same time, SQLite fails with "locked" in some of them without waiting.
        if self._path is None:
            return contextlib.nullcontext()
        return filelock.FileLock(
            f"{self._path}.lock", timeout=CREATION_TIMEOUT_SECONDS, mode=0o600, fallback_to_soft=False
        ).acquire(poll_interval=0.01)


class _MappedErrors:
    """Translates failures of the database itself, but not those about a caller's rows, to ``StateError``.

    A class, because entering and leaving a generator takes three times as many calls, twice for each turn.
    """

    def __init__(self, driver_error: type[Exception]) -> None:
        self._driver_error = driver_error

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, (sa.exc.SQLAlchemyError, self._driver_error)) and not isinstance(exc, sa.exc.IntegrityError):
            raise StateError(_UNUSABLE, detail=str(getattr(exc, "orig", None) or exc)) from exc


class _Opened:
    """The engine of one file, or of a server, and its idle driver connections."""

    def __init__(self, engine: sa.Engine, path: Path | None) -> None:
        self.engine = engine
        self.is_sqlite = engine.name == "sqlite"
        self._path = None if path is None else os.fspath(path)
        self._file = _identity(self._path)
        # SQLAlchemy's pool takes longer to give and to take a connection than SQLite for a transaction. A server's
        # connections still go to the pool, which checks that the server is reachable. One in memory belongs to its
        # thread.
        self._keeps_idle = path is not None
        self._idle: list[sa.PoolProxiedConnection] = []

    def is_same_file(self) -> bool:
        return self._file == _identity(self._path)

    def require_same_file(self) -> None:
        """Raise if the file was removed or replaced, because a commit to the old one is not durable."""
        if not self.is_same_file():
            raise StateError("The state database was removed or replaced during a write.")

    def driver_connection(self) -> sa.PoolProxiedConnection:
        """Return a driver connection. The caller passes it to :meth:`put_back`, or invalidates it."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.engine.raw_connection()

    def put_back(self, connection: sa.PoolProxiedConnection) -> None:
        if self._keeps_idle:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        self._keeps_idle = False
        while self._idle:
            self._idle.pop().close()
        self.engine.dispose()


def _identity(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _create_private_file(path: Path) -> None:
    """Create folder and file before SQLite does, which would make them as accessible as the umask allows.

    An existing file is not opened: closing it would release the locks of this process's own SQLite connections.
    """
    try:
        make_private_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as exc:
        raise StateError("The state database cannot be created.", detail=str(exc)) from exc
