"""The Responses API: model and tier of requests, outcome and usage of responses, rate limits."""

from __future__ import annotations

__all__ = [
    "account_refusal",
    "bounded_buffer",
    "error_codes",
    "estimate",
    "first_events",
    "media",
    "observer",
    "outcome",
    "pool_fields",
    "rate_limits",
    "references",
    "request",
    "strict_json",
    "turn",
    "usage",
    "withheld_end",
]
