"""HTTP, WebSocket and the Responses API without I/O: octets in, values out."""
