"""OCM, the OpenAI Codex Multiplexer: one Codex subscription, reached remotely and shared by bearer tokens."""

from __future__ import annotations

__version__ = "1.0.0"
