"""The subscription's windows as reported by ChatGPT: response fields, WebSocket messages, usage page.

A rate limit is a mapping with ``primary`` and ``secondary`` (each ``used_percent``, ``window_minutes``, ``reset_at``
in Unix seconds), and optionally ``plan_type``, ``limit_name`` and ``metered_limit_name`` (by default ``codex``, the
subscription's own). An empty one is not reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def default(now: float) -> dict[str, Any]:
    """Return plausible usage: 12 % of five hours and 34 % of a week."""
    return {
        "plan_type": "plus",
        "primary": {"used_percent": 12, "window_minutes": 300, "reset_at": int(now) + 2 * 3600},
        "secondary": {"used_percent": 34, "window_minutes": 10080, "reset_at": int(now) + 3 * 86400},
    }


def week_alone(now: float, *, used_percent: float = 34, reset_in: int = 3 * 86400) -> dict[str, Any]:
    """Return the usage of a plan without a short window: it reports its week as the primary window."""
    window = {"used_percent": used_percent, "window_minutes": 10080, "reset_at": int(now) + reset_in}
    return {"plan_type": "go", "primary": window}


def response_fields(limits: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the ``x-codex-*`` fields of an HTTP response."""
    if not limits:
        return ()
    family = str(limits.get("metered_limit_name") or "codex").replace("_", "-")
    fields = [("x-codex-plan-type", str(limits.get("plan_type", "plus")))]
    for window in _windows(limits):
        for name in ("used_percent", "window_minutes", "reset_at"):
            if name in limits[window]:
                fields.append((f"x-{family}-{window}-{name.replace('_', '-')}", str(limits[window][name])))
    return (
        *fields,
        ("x-codex-credits-has-credits", "False"),
        ("x-codex-credits-unlimited", "False"),
    )


def message(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``codex.rate_limits`` message of a WebSocket."""
    return {
        "type": "codex.rate_limits",
        "plan_type": limits.get("plan_type", "plus"),
        "rate_limits": {
            "allowed": True,
            "limit_reached": False,
            "primary": limits.get("primary"),
            "secondary": limits.get("secondary"),
        },
        "code_review_rate_limits": None,
        "credits": {"has_credits": False, "unlimited": False, "balance": None},
        "promo": None,
        "metered_limit_name": limits.get("metered_limit_name"),
        "limit_name": limits.get("limit_name"),
    }


def usage_page(limits: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the body of ``/backend-api/wham/usage``."""
    windows = {f"{window}_window": _usage_window(limits[window], now) for window in _windows(limits)}
    reached = any(limits[window]["used_percent"] >= 100 for window in _windows(limits))
    return {
        "plan_type": limits.get("plan_type", "plus"),
        "rate_limit": {
            "allowed": not reached,
            "limit_reached": reached,
            "primary_window": windows.get("primary_window"),
            "secondary_window": windows.get("secondary_window"),
        },
        "code_review_rate_limit": None,
        "credits": {"has_credits": False, "unlimited": False, "balance": None},
        "additional_rate_limits": [],
    }


def _windows(limits: Mapping[str, Any]) -> list[str]:
    return [window for window in ("primary", "secondary") if limits.get(window)]


def _usage_window(window: Mapping[str, Any], now: float) -> dict[str, Any]:
    reset_at = int(window.get("reset_at", now))
    return {
        "used_percent": int(window["used_percent"]),
        "limit_window_seconds": int(window.get("window_minutes", 0)) * 60,
        "reset_after_seconds": max(0, reset_at - int(now)),
        "reset_at": reset_at,
    }
