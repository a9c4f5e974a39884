"""The tables of the state database, and the statements that need nothing else.

SQLAlchemy Core only, for SQLite and PostgreSQL alike. Knows nothing of what the rows mean; that is for the ledger and
the users.
"""

from __future__ import annotations

import functools

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

#: Raised when a column or its meaning changes, not when a table is added.
SCHEMA_VERSION = 1

metadata = sa.MetaData()

#: 64 bits everywhere. SQLite numbers rows by itself only when the type is spelled INTEGER.
_Identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

user = sa.Table(
    "user",
    metadata,
    sa.Column("id", _Identity, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("admin", sa.Boolean, nullable=False, default=False),
    sa.Column("disabled", sa.Boolean, nullable=False, default=False),
    sa.Column("models", sa.JSON(none_as_null=True)),
    sa.Column("limits", sa.JSON(none_as_null=True)),
    sa.Column("max_concurrent", sa.Integer),
    sa.Column("expires_at", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

# The fields of turns.Turn. Token columns are null when upstream said nothing of usage, which is not zero.
turn = sa.Table(
    "turn",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("credential", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("service_tier", sa.Text, nullable=False),
    sa.Column("context_window", sa.BigInteger, nullable=False),
    sa.Column("week_start", sa.BigInteger),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("cached_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("cost_micro_usd", sa.BigInteger),
    sa.Column("transport", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("http_status", sa.BigInteger, nullable=False),
    sa.Column("first_byte_ms", sa.BigInteger, nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("error_code", sa.Text, nullable=False),
    sa.Index("turn_by_time", "started_at", "id"),
    sa.Index("turn_by_status", "status", "started_at", "id"),
    # Holds all that admission adds up, so that the sum never touches the rows themselves.
    sa.Index("turn_by_user", "user", "started_at", "id", "input_tokens", "output_tokens", "cost_micro_usd"),
)

# Sums of turns, kept for good. `hour` is Unix seconds of the hour's start; `week_start` is 0 when unknown, as no part
# of a primary key may be null. The key starts with the user, and SQLite keeps the rows in its order: what admission
# sums for one user lies together.
turn_hour = sa.Table(
    "turn_hour",
    metadata,
    sa.Column("user", sa.Text, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("credential", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("service_tier", sa.Text, primary_key=True),
    sa.Column("context_window", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("week_start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("turns", sa.BigInteger, nullable=False),
    sa.Column("turns_without_usage", sa.BigInteger, nullable=False),
    sa.Column("turns_unpriced", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
    sa.Index("turn_hour_by_hour", "hour"),
    sqlite_with_rowid=False,
)

# The audit trail. `detail` never holds a secret.
event = sa.Table(
    "event",
    metadata,
    sa.Column("id", _Identity, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON(none_as_null=True)),
    sa.Index("event_by_time", "at", "id"),
)

# The rate limits that upstream last told, per credential.
quota = sa.Table(
    "quota",
    metadata,
    sa.Column("credential", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("rate_limits", sa.JSON, nullable=False),
)

# How full upstream said a window was whenever that had risen, and what our own turns in it had cost by then, and by
# the time it was last told before. `period` is 5h or week.
quota_sample = sa.Table(
    "quota_sample",
    metadata,
    sa.Column("id", _Identity, primary_key=True),
    sa.Column("credential", sa.Text, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("window_start", sa.BigInteger, nullable=False),
    sa.Column("window_end", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("used_percent", sa.Double, nullable=False),
    sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
    sa.Column("cost_before_micro_usd", sa.BigInteger, nullable=False),
    sa.Index("quota_sample_by_window", "credential", "period", "id"),
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def insert_for(dialect_name: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Give the dialect's own INSERT, which knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect_name == "postgresql" else sqlite.insert(table)


def get_meta(connection: sa.Connection, key: str) -> str | None:
    """Read a value of ``meta``."""
    value: str | None = connection.scalar(sa.select(meta.c.value).where(meta.c.key == key))
    return value


def set_meta(connection: sa.Connection, key: str, value: str) -> None:
    """Write a value of ``meta``, new or not."""
    connection.execute(_put_meta(connection.dialect.name), {"key": key, "value": value})


def add_event(
    connection: sa.Connection, at: float, actor: str, kind: str, subject: str, detail: object | None = None
) -> None:
    """Write one line of the audit trail.

    :param actor: who did it: a user's name, ``"cli"`` or ``"system"``.
    :param detail: anything JSON can hold, never a secret.
    """
    row = {"at": at, "actor": actor, "kind": kind, "subject": subject, "detail": detail}
    connection.execute(event.insert(), row)


@functools.cache
def _put_meta(dialect_name: str) -> sa.Insert:
    statement = insert_for(dialect_name, meta)
    return statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
