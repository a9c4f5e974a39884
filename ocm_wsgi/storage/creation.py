"""Creates the tables of the state database, and upgrades those of an earlier release.

All of it happens in one transaction. A process of an earlier release that has opened the database before continues to
use it; one that opens it afterwards refuses to.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import sqlalchemy as sa

from ocm_wsgi.errors import StateError, StateTooNew
from ocm_wsgi.storage.schema import SCHEMA_VERSION, get_meta, metadata, set_meta

#: The key of ``meta`` under which every release looks for the version of the schema.
VERSION_KEY = "schema_version"

#: How long an upgrade tries again while turns hold the tables of PostgreSQL, in seconds.
UPGRADE_SECONDS = 30.0

# Any constant works, as long as nothing else in the PostgreSQL database uses it.
_ADVISORY_LOCK = 0x6F636D

# An upgrade that waits for a table also delays every turn that needs the table after it. Shorter than PostgreSQL's
# deadlock_timeout (1 s), so that in a deadlock it is the upgrade that gives way, never a turn.
_LOCK_TIMEOUT_MILLISECONDS = 500
_RETRY_SECONDS = 0.2
_LOCK_NOT_AVAILABLE = "55P03"


def create_schema(engine: sa.Engine) -> None:
    """Create the schema, or upgrade that of an earlier release.

    :raises StateTooNew: a newer release has created the schema.
    """
    with engine.connect() as connection:
        version = stored_version(connection)
    if not is_due(version):
        return
    if engine.dialect.name == "sqlite":
        _turn_on_wal(engine)
    deadline = time.monotonic() + UPGRADE_SECONDS
    while True:
        try:
            with _exclusive(engine) as connection:
                _bring_up_to_date(connection)
            return
        except sa.exc.OperationalError as exc:
            if not _is_lock_timeout(exc) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def require_current(engine: sa.Engine) -> None:
    """Raise unless the schema is that of this release. Changes nothing.

    :raises StateTooNew: a newer release has created the schema.
    :raises StateError: the schema does not exist yet, or needs an upgrade.
    """
    with engine.connect() as connection:
        version = stored_version(connection)
    if is_due(version):
        raise StateError(
            "The state database has no tables yet."
            if version is None
            else f"The state database has schema {version} and needs an upgrade to schema {SCHEMA_VERSION}."
        )


def stored_version(connection: sa.Connection) -> int | None:
    """Return the version of the schema in the database, or ``None`` if there is no schema."""
    if not sa.inspect(connection).has_table("meta"):
        return None
    version = get_meta(connection, VERSION_KEY)
    return None if version is None else int(version)


def is_due(version: int | None) -> bool:
    """Return whether a schema of this version, or none, must be created or upgraded.

    :raises StateTooNew: the version is a newer release's.
    """
    if version is not None and version > SCHEMA_VERSION:
        raise StateTooNew(
            f"The state database was created by a newer release of ocm-wsgi (schema {version}; this release knows "
            f"{SCHEMA_VERSION}). Install that release again, or use another database_url."
        )
    return version != SCHEMA_VERSION


@contextlib.contextmanager
def _exclusive(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that no other process that creates or upgrades the schema runs at the same time."""
    with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MILLISECONDS}")
        yield connection


def _bring_up_to_date(connection: sa.Connection) -> None:
    # Examined again in this transaction: on PostgreSQL, another process may have been faster.
    version = stored_version(connection)
    if not is_due(version):
        return
    if version is None:
        metadata.create_all(connection)
    else:
        # Imports Alembic, for a quarter of a second: only when there is something to do.
        from ocm_wsgi.storage import upgrades

        upgrades.apply(connection, version)
    set_meta(connection, VERSION_KEY, str(SCHEMA_VERSION))


def _turn_on_wal(engine: sa.Engine) -> None:
    # Must happen outside any transaction, and so bypasses SQLAlchemy.
    with contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode = WAL")


def _is_lock_timeout(error: sa.exc.OperationalError) -> bool:
    # psycopg and psycopg2 name it differently.
    return _LOCK_NOT_AVAILABLE in (getattr(error.orig, "sqlstate", None), getattr(error.orig, "pgcode", None))
