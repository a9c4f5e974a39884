"""TCP connections to hosts that have several addresses."""

from __future__ import annotations

__all__ = ["happy_eyeballs"]
