"""HTTP, WebSocket, the table of endpoints and the Responses API without I/O: octets in, values out."""

from __future__ import annotations

__all__ = ["endpoints", "http", "objects", "responses", "websocket"]
