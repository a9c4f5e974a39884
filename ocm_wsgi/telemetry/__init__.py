"""Logging, counters, and the requests in progress."""

from __future__ import annotations

__all__ = ["counters", "live_requests", "logs", "multiprocess", "request_log"]
