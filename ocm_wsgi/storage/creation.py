"""Creates the tables of the state database, and brings those of an earlier release up to date."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa

from ocm_wsgi.errors import StateTooNew
from ocm_wsgi.storage.schema import SCHEMA_VERSION, get_meta, metadata, set_meta

# Any constant works, as long as nothing else in the PostgreSQL database uses it.
_ADVISORY_LOCK = 0x6F636D


def create_schema(engine: sa.Engine) -> None:
    """Create the schema, or the tables and columns that an earlier release did not have.

    All of it happens in one transaction. A process of an earlier release that has opened the database before continues
    to use it; one that opens it afterwards refuses to.

    :raises StateTooNew: a newer release has created the schema.
    """
    version = _stored_version(engine)
    if version is None or version < SCHEMA_VERSION or (version == SCHEMA_VERSION and _lacks_tables(engine)):
        if engine.dialect.name == "sqlite":
            _turn_on_wal(engine)
        with engine.connect().execution_options(ocm_writes=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            # Examined again in this transaction: on PostgreSQL, another process may have been faster.
            _add_missing_columns(connection)
            metadata.create_all(connection)
            set_meta(connection, "schema_version", str(SCHEMA_VERSION))
    elif version > SCHEMA_VERSION:
        raise StateTooNew(
            f"The state database was created by a newer release of ocm-wsgi (schema {version}; this release knows "
            f"{SCHEMA_VERSION}). Install that release again, or use another database_url."
        )


def _add_missing_columns(connection: sa.Connection) -> None:
    """Add the columns that the tables of an earlier release lack. Its workers can continue to write to the tables."""
    inspector = sa.inspect(connection)
    present = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        known = {column["name"] for column in inspector.get_columns(table.name)} if table.name in present else None
        for column in table.columns:
            if known is not None and column.name not in known:
                name = connection.dialect.identifier_preparer.format_table(table)
                definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")


def _turn_on_wal(engine: sa.Engine) -> None:
    # Must happen outside any transaction, and so bypasses SQLAlchemy.
    with contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode = WAL")


def _lacks_tables(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return not metadata.tables.keys() <= set(sa.inspect(connection).get_table_names())


def _stored_version(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("meta"):
            return None
        version = get_meta(connection, "schema_version")
        return None if version is None else int(version)
