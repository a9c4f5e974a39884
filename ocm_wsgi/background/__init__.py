"""Fetches the responses in the background that no client fetches, so that they are charged for what they used."""

from __future__ import annotations

__all__ = ["fetcher"]
