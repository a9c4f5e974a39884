"""A client of OpenAI's OAuth issuer."""

from __future__ import annotations

__all__ = ["authorization", "http_client", "refresh"]
