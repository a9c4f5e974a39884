"""SQLAlchemy engines for SQLite and PostgreSQL. Independent of the tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

#: How long a writer waits for another process's transaction on SQLite.
BUSY_TIMEOUT_SECONDS = 5.0


def create_engine(url: sa.URL) -> sa.Engine:
    """Return an engine whose transactions write only with the execution option ``ocm_writes``. It opens nothing yet.

    On SQLite, a transaction that writes is the only one from its start.
    """
    return _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _server_engine(url)


def _server_engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, pool_pre_ping=True, max_overflow=-1)


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    # The number of threads bounds the number of connections; waiting for one would only add a second queue.
    engine = sa.create_engine(url, max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # The driver must not begin transactions automatically: it would begin deferred ones, which fail when they
        # change from reading to writing.
        connection.isolation_level = None
        for pragma in ("foreign_keys = ON", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("ocm_writes", False)
        # Bypasses SQLAlchemy, like DriverCursor.
        connection.connection.cursor().execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
