"""Requests to OpenAI, sent exactly as given."""

from __future__ import annotations

__all__ = ["adapter", "client", "exchange", "response"]
