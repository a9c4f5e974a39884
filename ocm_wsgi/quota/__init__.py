"""Limits of users, and shares in the subscription's windows. Pure; no I/O."""

from __future__ import annotations

__all__ = ["credential", "limits", "shares"]
