"""Flask: turns requests into calls of the packages below, and their results into responses."""

from __future__ import annotations

__all__ = [
    "application",
    "check_endpoints",
    "cors",
    "dashboard",
    "errors",
    "health",
    "metrics",
    "open_mode",
    "proxy",
    "request_log",
    "status",
]
