"""Prices each turn and records it once; sums, history and export."""

from __future__ import annotations

__all__ = [
    "abandoned_turns",
    "history",
    "ledger",
    "pricing",
    "queries",
    "recorder",
    "refused_turns",
    "settlement",
    "spool",
    "tariffs",
    "turn_accounting",
    "turn_record",
    "usages_export",
    "weeks",
    "window_history",
]
