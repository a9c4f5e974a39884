"""A table of the objects that OpenAI stores, with their owners."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

_INDEXES = {
    "stored_object_by_kind": ["kind", "created_at"],
    "stored_object_by_user": ["user", "kind"],
    "stored_object_by_turn": ["turn"],
}


def upgrade() -> None:
    """Create what is missing of it: some databases of schema 2 have the table, without all of its indexes."""
    op.create_table(
        "stored_object",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("turn", sa.Text),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    for name, columns in _INDEXES.items():
        op.create_index(name, "stored_object", columns, if_not_exists=True)
