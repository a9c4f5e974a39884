"""Columns for tokens of images and audio, for other units, and for estimates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

_UNITS = (
    "image_input_tokens",
    "image_cached_tokens",
    "image_output_tokens",
    "audio_input_tokens",
    "audio_cached_tokens",
    "audio_output_tokens",
    "media_ms",
    "characters",
    "items",
)


def upgrade() -> None:
    """Add the columns."""
    for name in _UNITS:
        op.add_column("turn", sa.Column(name, sa.BigInteger))
    op.add_column("turn", sa.Column("estimated", sa.Boolean, nullable=False, server_default=sa.false()))
    for name in ("turns_estimated", *_UNITS):
        op.add_column("turn_hour", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
