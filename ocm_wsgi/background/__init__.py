"""Fetches the responses and jobs in the background that no client fetches, to charge them for what they used."""

from __future__ import annotations

__all__ = ["fetcher"]
