"""``ocm demo``: the whole service running on loopback."""

from __future__ import annotations

__all__ = ["service"]
