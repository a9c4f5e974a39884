"""The schema of 0.1.0.

Release 0.1.0 created it, and later releases create their own schema in an empty database, so nothing upgrades to it.
"""

from __future__ import annotations

revision = "1"
down_revision = None


def upgrade() -> None:
    """Do nothing: the databases of 0.1.0 have this schema."""
