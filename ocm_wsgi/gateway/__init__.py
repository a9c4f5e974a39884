"""What WSGI servers provide beyond PEP 3333."""

from __future__ import annotations

__all__ = ["environ", "request_body", "waiting"]
