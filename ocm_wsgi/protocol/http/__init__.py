"""HTTP/1.1 messages: fields, targets, response heads, framing, content codings."""

from __future__ import annotations

__all__ = [
    "bearer",
    "browsers",
    "content_coding",
    "cors",
    "fields",
    "form_arrival",
    "forms",
    "framing",
    "response_head",
    "targets",
]
