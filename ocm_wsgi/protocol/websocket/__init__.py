"""WebSocket: handshake, frames, compression, and what goes over a Codex socket."""
