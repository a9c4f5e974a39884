"""WebSocket: opening handshake, frames, compression, and the turns of a Codex session."""

from __future__ import annotations

__all__ = ["client_messages", "frames", "handshake", "message_gate", "pool_limits", "session"]
