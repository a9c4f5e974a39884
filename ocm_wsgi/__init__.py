"""OCM, the OpenAI Codex Multiplexer: one Codex subscription, reached remotely and shared by bearer tokens."""

from __future__ import annotations

__version__ = "0.1.0"
