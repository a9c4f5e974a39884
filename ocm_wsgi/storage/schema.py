"""The tables of the state database, and statements that need nothing else.

Uses SQLAlchemy Core only, for both SQLite and PostgreSQL. The packages that use the rows know their meaning.
"""

from __future__ import annotations

import functools

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

#: Incremented with every change of the tables; each version has a revision in ``revisions``. Every column that is added
#: to a table may be null or has a server default: during an upgrade, workers of the earlier release still write rows
#: without it.
SCHEMA_VERSION = 5

metadata = sa.MetaData()

# 64 bits everywhere. SQLite numbers rows automatically only if the type is spelled INTEGER.
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
    sa.Column("credential", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

# The fields of protocol.responses.turn.Turn. The columns of its usage are null if that is unknown, which is not zero.
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
    sa.Column("image_input_tokens", sa.BigInteger),
    sa.Column("image_cached_tokens", sa.BigInteger),
    sa.Column("image_output_tokens", sa.BigInteger),
    sa.Column("audio_input_tokens", sa.BigInteger),
    sa.Column("audio_cached_tokens", sa.BigInteger),
    sa.Column("audio_output_tokens", sa.BigInteger),
    sa.Column("media_ms", sa.BigInteger),
    sa.Column("characters", sa.BigInteger),
    sa.Column("items", sa.BigInteger),
    sa.Column("estimated", sa.Boolean, nullable=False, server_default=sa.false()),
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
    # Contains all columns that admission sums, so that the sum never reads the rows themselves.
    sa.Index("turn_by_user", "user", "started_at", "id", "input_tokens", "output_tokens", "cost_micro_usd"),
)

# Sums of turns, never deleted. `hour` is the start of the hour in Unix seconds; `week_start` is 0 if unknown, because
# no part of a primary key may be null. The key starts with the user, and SQLite stores the rows in its order: the rows
# that admission sums for one user are adjacent.
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
    sa.Column("turns_estimated", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("image_input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("image_cached_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("image_output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("audio_input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("audio_cached_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("audio_output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("media_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("characters", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("items", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
    sa.Index("turn_hour_by_hour", "hour"),
    sqlite_with_rowid=False,
)

# Who owns what OpenAI stores for the owner of the API key. `turn` is the turn that created a response, so that the
# usage of one that runs in the background can be recorded once it is known.
stored_object = sa.Table(
    "stored_object",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("credential", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("turn", sa.Text),
    sa.Index("stored_object_by_kind", "kind", "created_at"),
    sa.Index("stored_object_by_user", "user", "kind"),
    sa.Index("stored_object_by_turn", "turn"),
    sqlite_with_rowid=False,
)

# The audit trail. `detail` never contains a secret.
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

# The rate limits last reported by upstream, per credential.
quota = sa.Table(
    "quota",
    metadata,
    sa.Column("credential", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("rate_limits", sa.JSON, nullable=False),
)

# The used percentage of a window that upstream reported, each time it had risen, with the cost of our own turns in the
# window at that time and at the time of the previous report. `period` is 5h or week.
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

# Which account of a pool serves a conversation. `key` is a digest of the user and of the client's name for the
# conversation.
affinity = sa.Table(
    "affinity",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("credential", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("affinity_by_time", "created_at"),
    sqlite_with_rowid=False,
)

# Until when an account cannot be used, by its own word, and why.
credential_block = sa.Table(
    "credential_block",
    metadata,
    sa.Column("credential", sa.Text, primary_key=True),
    sa.Column("blocked_until", sa.Double, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def insert_for(dialect_name: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return the dialect's own INSERT, which has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect_name == "postgresql" else sqlite.insert(table)


def get_meta(connection: sa.Connection, key: str) -> str | None:
    """Return a value of ``meta``, or ``None`` if there is none."""
    value: str | None = connection.scalar(sa.select(meta.c.value).where(meta.c.key == key))
    return value


def set_meta(connection: sa.Connection, key: str, value: str) -> None:
    """Insert or update a value of ``meta``."""
    connection.execute(_upsert_meta(connection.dialect.name), {"key": key, "value": value})


def add_event(
    connection: sa.Connection, at: float, actor: str, kind: str, subject: str, detail: object | None = None
) -> None:
    """Add an event to the audit trail.

    :param actor: a user's name, ``"cli"`` or ``"system"``.
    :param detail: any JSON value; never a secret.
    """
    row = {"at": at, "actor": actor, "kind": kind, "subject": subject, "detail": detail}
    connection.execute(event.insert(), row)


@functools.cache
def _upsert_meta(dialect_name: str) -> sa.Insert:
    statement = insert_for(dialect_name, meta)
    return statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
