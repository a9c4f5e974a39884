"""The answer that the Codex client gets where it asks for its usage, for its own ``/status``. No Flask, no I/O.

Those who see all are told of the subscription's windows. To a user their own limits are the windows: one for the
hours, one for the weeks, each the limit that is fullest.

Source: openai/codex 0.169, ``codex-rs/codex-backend-openapi-models``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ocm_wsgi.admission.admission import Use
from ocm_wsgi.protocol.responses.rate_limits import Limit, RateLimits, Window
from ocm_wsgi.quota.limits import Period
from ocm_wsgi.reporting.status import fullness

#: What Codex is told where the plan is none of its business; with it, it sends people to their admin for more.
PLAN_TYPE = "business"

_SHORT: frozenset[Period] = frozenset({"5h", "day"})


def of_user(uses: Iterable[Use], now: float) -> dict[str, Any]:
    """Give the answer for a user by their own limits.

    :param now: Unix seconds.
    """
    fullest = sorted(uses, key=fullness, reverse=True)
    short = next((use for use in fullest if use.limit.period in _SHORT), None)
    long = next((use for use in fullest if use.limit.period not in _SHORT), None)
    is_reached = any(use.is_reached for use in fullest)
    return _answer(PLAN_TYPE, _rate_limit(is_reached, _window_of_use(short, now), _window_of_use(long, now)))


def of_subscription(limits: RateLimits, plan_type: str | None, now: float) -> dict[str, Any]:
    """Give the answer for those who see all, as upstream last told.

    :param plan_type: what the credential says; what the limits say goes before it.
    :param now: Unix seconds.
    """
    answer = _answer(limits.plan_type or plan_type or PLAN_TYPE, _rate_limit_of(limits.current, now))
    if limits.credits is not None:
        answer["credits"] = {
            "has_credits": limits.credits.has_credits,
            "unlimited": limits.credits.unlimited,
            "balance": limits.credits.balance,
        }
    answer["additional_rate_limits"] = [
        {"limit_name": limit.name or limit.id, "metered_feature": limit.id, "rate_limit": _rate_limit_of(limit, now)}
        for limit in limits.limits
        if limit is not limits.current
    ]
    return answer


def _answer(plan_type: str, rate_limit: dict[str, Any]) -> dict[str, Any]:
    return {"plan_type": plan_type, "rate_limit": rate_limit, "credits": None, "additional_rate_limits": []}


def _rate_limit_of(limit: Limit | None, now: float) -> dict[str, Any]:
    both = (limit.primary, limit.secondary) if limit else (None, None)
    windows = [_window(window, now) if window else None for window in both]
    is_reached = any(window is not None and window["used_percent"] >= 100 for window in windows)
    return _rate_limit(is_reached, *windows)


def _rate_limit(is_reached: bool, primary: dict[str, Any] | None, secondary: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "allowed": not is_reached,
        "limit_reached": is_reached,
        "primary_window": primary,
        "secondary_window": secondary,
    }


def _window(window: Window, now: float) -> dict[str, Any] | None:
    """One window of upstream, unless it is over: nothing is known of the next one yet."""
    if window.reset_at <= now:
        return None
    return _window_object(window.used_percent, window.window_minutes * 60, window.reset_at, now)


def _window_of_use(use: Use | None, now: float) -> dict[str, Any] | None:
    if use is None:
        return None
    return _window_object(fullness(use), use.span.end - use.span.start, use.span.end, now)


def _window_object(used_percent: float, seconds: int, reset_at: int, now: float) -> dict[str, Any]:
    return {
        "used_percent": min(math.floor(used_percent), 100),
        "limit_window_seconds": seconds,
        "reset_after_seconds": max(math.ceil(reset_at - now), 0),
        "reset_at": reset_at,
    }
