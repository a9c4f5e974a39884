"""Decides whether a user may run a turn now."""

from __future__ import annotations

__all__ = ["admission", "measurability", "metering", "waiting"]
