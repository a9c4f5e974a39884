"""The schema of 0.1.0.

Release 0.1.0 created it itself. A backup of that release is given these tables, before it is upgraded.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_users()
    _create_turns()
    _create_sums()
    _create_quotas()
    op.create_table(
        "event",
        sa.Column("id", _IDENTITY, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "kind", "subject")),
        sa.Column("detail", sa.JSON),
    )
    op.create_index("event_by_time", "event", ["at", "id"])
    op.create_table("meta", sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))


def _create_users() -> None:
    op.create_table(
        "user",
        sa.Column("id", _IDENTITY, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("models", sa.JSON),
        sa.Column("limits", sa.JSON),
        sa.Column("max_concurrent", sa.Integer),
        sa.Column("expires_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )


def _create_turns() -> None:
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cache_write_tokens")
    op.create_table(
        "turn",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("user", "credential", "model", "service_tier")),
        sa.Column("context_window", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in ("week_start", *tokens, "cost_micro_usd")),
        sa.Column("transport", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("http_status", "first_byte_ms", "duration_ms")),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("error_code", sa.Text, nullable=False),
    )
    op.create_index("turn_by_time", "turn", ["started_at", "id"])
    op.create_index("turn_by_status", "turn", ["status", "started_at", "id"])
    covered = ["input_tokens", "output_tokens", "cost_micro_usd"]
    op.create_index("turn_by_user", "turn", ["user", "started_at", "id", *covered])


def _create_sums() -> None:
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cache_write_tokens")
    counts = ("turns", "turns_without_usage", "turns_unpriced", *tokens, "cost_micro_usd")
    op.create_table(
        "turn_hour",
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("credential", "model", "service_tier")),
        sa.Column("context_window", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("week_start", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sqlite_with_rowid=False,
    )
    op.create_index("turn_hour_by_hour", "turn_hour", ["hour"])


def _create_quotas() -> None:
    op.create_table(
        "quota",
        sa.Column("credential", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("rate_limits", sa.JSON, nullable=False),
    )
    op.create_table(
        "quota_sample",
        sa.Column("id", _IDENTITY, primary_key=True),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("window_end", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("used_percent", sa.Double, nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("cost_before_micro_usd", sa.BigInteger, nullable=False),
    )
    op.create_index("quota_sample_by_window", "quota_sample", ["credential", "period", "id"])
