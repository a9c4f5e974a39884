"""The Responses API: model and tier of requests, outcome and usage of responses, rate limits."""

from __future__ import annotations

__all__ = [
    "bounded_buffer",
    "error_codes",
    "estimate",
    "media",
    "observer",
    "outcome",
    "rate_limits",
    "references",
    "request",
    "strict_json",
    "turn",
    "usage",
]
