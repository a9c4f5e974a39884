"""Limits of users, shares in the subscription's windows, and the choice of an account by them. Pure; no I/O."""

from __future__ import annotations

__all__ = ["choosing", "credential", "limits", "shares"]
