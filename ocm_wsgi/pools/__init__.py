"""The accounts at OpenAI, and which of them serves a request."""

from __future__ import annotations

__all__ = ["account", "affinity", "blocks", "dispatch", "members", "pool", "uses"]
