"""Diagnostics for ``ocm check``, one module per subject. They change nothing and use no subscription quota."""

from __future__ import annotations

from ocm_wsgi.checks.finding import Finding, Level

__all__ = [
    "Finding",
    "Level",
    "address",
    "configuration",
    "credential",
    "listening",
    "prices",
    "reachability",
    "server",
    "sharing",
    "state",
    "tickets",
    "users",
]
