"""HTTP, WebSocket and the Responses API without I/O: bytes in, values out."""
