"""Whether upstream refuses a request because of the account that sent it, so that another account may do better.

Pure; no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.error_codes import error_code
from ocm_wsgi.protocol.responses.rate_limits import DEFAULT_LIMIT, RateLimits

Reason = Literal["usage_limit", "rate_limit", "deactivated", "payment", "failing"]

#: How long an account is not used if upstream does not say, in seconds.
USAGE_LIMIT_SECONDS = 5 * 60
RATE_LIMIT_SECONDS = 60
ACCOUNT_SECONDS = 3600
#: The longest time for which an account is not used because upstream is failing.
MOST_FAILING_SECONDS = 60

#: Codes of a 403 that is about the account, whatever it asks for.
ACCOUNT_CODES = frozenset(
    {
        "account_deactivated",
        "account_suspended",
        "deactivated_workspace",
        "subscription_required",
        "usage_not_included",
        "workspace_deactivated",
    }
)


#: Codes of a 429 that no reset ends.
UNPAID_CODES = frozenset({"credit_balance_exhausted", "insufficient_quota", "usage_not_included"})


@dataclass(frozen=True)
class AccountRefusal:
    """A refusal because of the account.

    :ivar blocked_until: Unix seconds until which the account cannot be used; ``None`` if that is unknown, or if it can
        be used for other requests.
    """

    reason: Reason
    blocked_until: float | None


def account_refusal(
    status: int, fields: Iterable[tuple[str, str]], read_error: Callable[[], object], now: float
) -> AccountRefusal | None:
    """Return the refusal that a response is, or ``None`` if another account would get the same response.

    :param fields: of the response.
    :param read_error: returns the document in its body; called only if it matters.
    :param now: Unix seconds.
    """
    if status < 402:
        return None
    fields = list(fields)
    if status == 429:
        return _limited(fields, read_error(), now)
    if status == 402:
        return AccountRefusal("payment", now + ACCOUNT_SECONDS)
    if status == 403:
        is_about_account = error_code(read_error()) in ACCOUNT_CODES
        return AccountRefusal("deactivated", now + ACCOUNT_SECONDS) if is_about_account else None
    if status < 500:
        return None
    seconds = _retry_after(fields)
    return AccountRefusal("failing", None if seconds is None else now + min(seconds, MOST_FAILING_SECONDS))


def _limited(fields: list[tuple[str, str]], document: object, now: float) -> AccountRefusal:
    limits, _ = rate_limits.read_fields(fields)
    code = error_code(document)
    if code in UNPAID_CODES:
        return AccountRefusal("payment", now + ACCOUNT_SECONDS)
    is_usage = code == "usage_limit_reached"
    reason: Reason = "usage_limit" if is_usage else "rate_limit"
    if limits is not None and limits.active not in (None, DEFAULT_LIMIT):
        # Another limit than that of the subscription: of one model, or of one kind of request.
        return AccountRefusal(reason, None)
    seconds = _retry_after(fields)
    reset = _reset_of(limits, now) or _reset_in(document, now) or (None if seconds is None else now + seconds)
    return AccountRefusal(reason, reset or now + (USAGE_LIMIT_SECONDS if is_usage else RATE_LIMIT_SECONDS))


def _reset_of(limits: RateLimits | None, now: float) -> float | None:
    """Return when the windows that are used up reset, the last of them; ``None`` if none is."""
    own = None if limits is None else limits.own
    windows = () if own is None else (own.primary, own.secondary)
    resets = [window.reset_at for window in windows if window is not None and window.used_percent >= 100]
    return max((reset for reset in resets if reset > now), default=None)


def _reset_in(document: object, now: float) -> float | None:
    error: Any = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return None
    at, seconds = error.get("resets_at"), error.get("resets_in_seconds")
    if isinstance(at, int | float) and now < at < now + 366 * 86400:
        return float(at)
    return now + seconds if isinstance(seconds, int | float) and 0 < seconds < 366 * 86400 else None


def _retry_after(fields: list[tuple[str, str]]) -> float | None:
    value = (value_of(fields, "retry-after") or "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 9 else None
