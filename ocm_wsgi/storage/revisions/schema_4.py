"""The credential that serves a user, where there are several."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Add the column."""
    op.add_column("user", sa.Column("credential", sa.Text))
