"""WebSocket: opening handshake, frames, compression, and the turns of a Codex session."""
