"""The data behind the dashboard, the JSON endpoints and the Prometheus metrics."""

from __future__ import annotations

__all__ = [
    "client_setup",
    "codex_usage",
    "dashboard",
    "prometheus",
    "readiness",
    "spreadsheet",
    "status",
    "units",
    "usage_query",
]
