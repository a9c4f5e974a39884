"""Tables of pools: which account serves a conversation, and which accounts cannot be used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "affinity",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("affinity_by_time", "affinity", ["created_at"])
    op.create_table(
        "credential_block",
        sa.Column("credential", sa.Text, primary_key=True),
        sa.Column("blocked_until", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
