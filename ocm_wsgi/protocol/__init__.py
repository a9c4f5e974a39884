"""HTTP, WebSocket and the Responses API without I/O: octets in, values out."""

from __future__ import annotations

__all__ = ["http", "responses", "websocket"]
