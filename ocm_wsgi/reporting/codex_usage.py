"""The usage response that the Codex client requests for its own ``/status``. No Flask, no I/O.

Admins get the windows of the subscription. For other users their own limits take the place of the windows: the fullest
short limit as the primary window, the fullest long one as the secondary.

Source: openai/codex 0.169, ``codex-rs/codex-backend-openapi-models``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ocm_wsgi.admission.admission import LimitUsage
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.quota.choosing import Figures
from ocm_wsgi.quota.limits import LENGTHS, MEASURES, Period
from ocm_wsgi.reporting.status import fullness

#: The plan for users who may not know the real one; with this plan Codex suggests asking the admin for more.
PLAN_TYPE = "business"

_SHORT_PERIODS: frozenset[Period] = frozenset({"5h", "day"})


def of_user(uses: Iterable[LimitUsage], now: float) -> dict[str, Any]:
    """Return the response for a user, from their own limits.

    :param now: Unix seconds.
    """
    fullest = sorted(uses, key=fullness, reverse=True)
    short = next((use for use in fullest if use.limit.period in _SHORT_PERIODS), None)
    long = next((use for use in fullest if use.limit.period not in _SHORT_PERIODS), None)
    is_reached = any(use.is_reached for use in fullest)
    return _response(PLAN_TYPE, _rate_limit(is_reached, _window_of_use(short, now), _window_of_use(long, now)))


def of_subscription(limits: RateLimits, plan_type: str | None, now: float) -> dict[str, Any]:
    """Return the response for an admin, from what upstream last reported.

    :param plan_type: the credential's; the plan in ``limits`` takes precedence.
    :param now: Unix seconds.
    """
    response = _response(limits.plan_type or plan_type or PLAN_TYPE, _rate_limit_of(limits.own, now))
    if limits.credits is not None:
        response["credits"] = {
            "has_credits": limits.credits.has_credits,
            "unlimited": limits.credits.unlimited,
            "balance": limits.credits.balance,
        }
    response["additional_rate_limits"] = [
        {"limit_name": limit.name or limit.id, "metered_feature": limit.id, "rate_limit": _rate_limit_of(limit, now)}
        for limit in limits.limits
        if limit is not limits.own
    ]
    return response


def of_pool(figures: Figures, now: float) -> dict[str, Any]:
    """Return the response for an admin whom a pool serves, from the windows of all its accounts.

    :param now: Unix seconds.
    """
    pair = [
        None
        if window is None or window.resets_at <= now
        else _window_object(window.used_percent, LENGTHS[period], round(window.resets_at), now)
        for window, period in ((figures.short, MEASURES[0]), (figures.week, MEASURES[1]))
    ]
    is_reached = any(window is not None and window["used_percent"] >= 100 for window in pair)
    return _response(PLAN_TYPE, _rate_limit(is_reached, *pair))


def _response(plan_type: str, rate_limit: dict[str, Any]) -> dict[str, Any]:
    return {"plan_type": plan_type, "rate_limit": rate_limit, "credits": None, "additional_rate_limits": []}


def _rate_limit_of(limit: RateLimit | None, now: float) -> dict[str, Any]:
    pair = (limit.primary, limit.secondary) if limit else (None, None)
    windows = [_window(window, now) if window else None for window in pair]
    is_reached = any(window is not None and window["used_percent"] >= 100 for window in windows)
    return _rate_limit(is_reached, *windows)


def _rate_limit(is_reached: bool, primary: dict[str, Any] | None, secondary: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "allowed": not is_reached,
        "limit_reached": is_reached,
        "primary_window": primary,
        "secondary_window": secondary,
    }


def _window(window: RateLimitWindow, now: float) -> dict[str, Any] | None:
    """Return one of upstream's windows, or ``None`` if it has ended: nothing is known about the next one yet."""
    if window.reset_at <= now:
        return None
    return _window_object(window.used_percent, window.window_minutes * 60, window.reset_at, now)


def _window_of_use(use: LimitUsage | None, now: float) -> dict[str, Any] | None:
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
