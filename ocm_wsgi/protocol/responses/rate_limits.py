"""Reads the subscription's rate limits out of response fields and WebSocket messages. Pure; no I/O.

Fields come in families, ``x-<limit>-primary-used-percent`` and so on; ``codex`` is the family of the subscription
itself. Primary is the short window (5 hours), secondary the long one (a week), whichever place upstream reports them
in: plans without a short window have their week in the first place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.outcome import parse_json
from ocm_wsgi.quota.limits import LENGTHS, period_of

#: The limit that applies if no other is named.
DEFAULT_LIMIT = "codex"

_WINDOW_FIELD = re.compile(r"x-(.+)-(primary|secondary)-(used-percent|window-minutes|reset-at)", re.ASCII)
_OTHER_FIELD = re.compile(
    r"x-.+-limit-name|x-codex-(active-limit|credits-.+|plan-type|rate-limit-reached-type)", re.ASCII
)
_MESSAGE_TYPE = "codex.rate_limits"
_LARGEST_INTEGER = 2**53
#: Families that are remembered beside the subscription's own, at most.
_MOST_OTHERS = 20
_BOOLEANS: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class RateLimitWindow:
    """One window of a limit.

    :ivar used_percent: 0 to 100, more if it is overdrawn.
    :ivar window_minutes: its length; 0 if upstream did not report it.
    :ivar reset_at: Unix seconds of its end; 0 if upstream did not report it.
    """

    used_percent: float
    window_minutes: int = 0
    reset_at: int = 0

    @property
    def start(self) -> int | None:
        """Unix seconds of its start, or ``None`` if unknown."""
        return _start(self.window_minutes, self.reset_at)


@dataclass(frozen=True)
class RateLimit:
    """One limit with its two windows, either of which may be missing.

    :ivar id: as in the field names, lower case with hyphens, e.g. ``codex``.
    :ivar name: the display name, or ``None``.
    """

    id: str
    primary: RateLimitWindow | None = None
    secondary: RateLimitWindow | None = None
    name: str | None = None


@dataclass(frozen=True)
class Credits:
    """Purchased credits. ``balance`` is upstream's own text."""

    has_credits: bool
    unlimited: bool
    balance: str | None = None


@dataclass(frozen=True)
class RateLimits:
    """The rate limits in one response, or in several.

    :ivar limits: ordered by id.
    :ivar active: id of the limit that caused a refusal, or ``None``.
    :ivar reached_type: on a refusal, upstream's name for the kind of limit that was reached.
    """

    limits: tuple[RateLimit, ...] = ()
    active: str | None = None
    credits: Credits | None = None
    plan_type: str | None = None
    reached_type: str | None = None

    @property
    def own(self) -> RateLimit | None:
        """The subscription's own limit, if it is described."""
        return next((limit for limit in self.limits if limit.id == DEFAULT_LIMIT), None)

    @property
    def week_start(self) -> int | None:
        """Unix seconds of the start of the subscription's week; for fields, ``read_fields`` returns it."""
        window = self.own.secondary if self.own else None
        return window.start if window is not None and period_of(window.window_minutes) == "week" else None

    def week_at(self, time: float) -> int | None:
        """Return ``week_start`` if that week contains a time, in Unix seconds, or ``None``."""
        start = self.week_start
        return start if start is not None and start <= time < start + LENGTHS["week"] else None

    def updated_by(self, newer: RateLimits, now: float) -> RateLimits:
        """Return what is known after a later response, which may describe only some of the limits.

        :param now: Unix seconds. Other limits than the subscription's own are forgotten once their windows have ended.
        """
        found = {limit.id: limit for limit in newer.limits}
        others = [
            limit
            for limit in self.limits
            if limit.id not in found and (limit.id == DEFAULT_LIMIT or _is_current(limit, now))
        ]
        others.sort(key=lambda limit: limit.id != DEFAULT_LIMIT)
        updated = replace(
            newer,
            limits=tuple(sorted([*newer.limits, *others[:_MOST_OTHERS]], key=lambda limit: limit.id)),
            credits=newer.credits or self.credits,
            plan_type=newer.plan_type or self.plan_type,
        )
        return newer if updated == newer else updated


def from_fields(fields: Iterable[tuple[str, str]]) -> RateLimits | None:
    """Return the rate limits in response fields, or ``None`` if there are none. Malformed values are ignored."""
    return read_fields(fields)[0]


def read_fields(fields: Iterable[tuple[str, str]]) -> tuple[RateLimits | None, int | None]:
    """Return the rate limits in response fields, and when the subscription's weekly window started, in Unix seconds.

    The start is the weekly window's end minus its length, as sing-box computes it. Other limits than the subscription's
    own have windows of their own, which are not its weeks, even if one of them is the active limit.
    """
    return _read(_limit_fields(fields))


# Most responses repeat the values of the previous one.
@lru_cache(maxsize=64)
def _read(fields: tuple[tuple[str, str], ...]) -> tuple[RateLimits | None, int | None]:
    values = dict(fields)
    return _rate_limits(values), _week_start(values)


def _rate_limits(values: Mapping[str, str]) -> RateLimits | None:
    windows: dict[str, dict[str, RateLimitWindow]] = {}
    for field_name in values:
        found = _WINDOW_FIELD.fullmatch(field_name)
        if found and (window := _window_of_fields(values, found[1], found[2])):
            windows.setdefault(_identifier(found[1]), {})[found[2]] = window
    limits = tuple(
        _limit(id_, both.get("primary"), both.get("secondary"), label(values.get(f"x-{id_}-limit-name")))
        for id_, both in sorted(windows.items())
    )
    found_limits = RateLimits(
        limits,
        _identifier(values.get("x-codex-active-limit", "")) or None,
        _credits(*(values.get(f"x-codex-credits-{name}") for name in ("has-credits", "unlimited", "balance"))),
        label(values.get("x-codex-plan-type")),
        label(values.get("x-codex-rate-limit-reached-type")),
    )
    return None if found_limits == RateLimits() else found_limits


def from_message(text: bytes | str) -> RateLimits | None:
    """Return the rate limits in a WebSocket message, or ``None`` if it is not ``codex.rate_limits``.

    A message that does not mention the type is not parsed.
    """
    has_type = _MESSAGE_TYPE in text if isinstance(text, str) else _MESSAGE_TYPE.encode() in text
    message = parse_json(text) if has_type else None
    if not isinstance(message, dict) or message.get("type") != _MESSAGE_TYPE:
        return None
    id_ = _identifier(label(message.get("metered_limit_name")) or DEFAULT_LIMIT)
    details = _mapping(message.get("rate_limits"))
    limit = _limit(
        id_,
        _window_of_object(details.get("primary")),
        _window_of_object(details.get("secondary")),
        label(message.get("limit_name")),
    )
    credits_ = _mapping(message.get("credits"))
    return RateLimits(
        (limit,),
        id_,
        _credits(*(credits_.get(name) for name in ("has_credits", "unlimited", "balance"))),
        label(message.get("plan_type")),
    )


def _limit(id_: str, first: RateLimitWindow | None, second: RateLimitWindow | None, name: str | None) -> RateLimit:
    """Return a limit with 5 hours in the first place and a week in the second, wherever upstream reports them."""
    if _period(second) == "5h" or (_period(first) == "week" and _period(second) != "week"):
        first, second = second, first
    return RateLimit(id_, first, second, name)


def _period(window: RateLimitWindow | None) -> str | None:
    return None if window is None else period_of(window.window_minutes)


def _is_current(limit: RateLimit, now: float) -> bool:
    return any(window is not None and window.reset_at > now for window in (limit.primary, limit.secondary))


def _week_start(values: Mapping[str, str]) -> int | None:
    for place in ("secondary", "primary"):
        prefix = f"x-{DEFAULT_LIMIT}-{place}-"
        minutes, reset_at = (_integer(values.get(prefix + name)) for name in ("window-minutes", "reset-at"))
        if period_of(minutes) == "week" and reset_at > 0:
            return _start(minutes, reset_at)
    return None


def _start(window_minutes: int, reset_at: int) -> int | None:
    return reset_at - window_minutes * 60 if window_minutes > 0 and reset_at > 0 else None


def _limit_fields(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the fields about limits, with lower-case names. If a field is repeated the first one counts."""
    values: dict[str, str] = {}
    for name, value in fields:
        if (lowered := _limit_field_name(name)) is not None:
            values.setdefault(lowered, value.strip())
    return tuple(values.items())


@lru_cache(maxsize=512)
def _limit_field_name(name: str) -> str | None:
    """Return a field's name in lower case, or ``None`` if it is not about limits."""
    lowered = name.lower()
    is_about_limits = _WINDOW_FIELD.fullmatch(lowered) or _OTHER_FIELD.fullmatch(lowered)
    return lowered if is_about_limits else None


def _identifier(limit: str) -> str:
    return limit.strip().lower().replace("_", "-")


def _window_of_fields(values: Mapping[str, str], limit: str, which: str) -> RateLimitWindow | None:
    prefix = f"x-{limit}-{which}-"
    return _window(*(values.get(prefix + name) for name in ("used-percent", "window-minutes", "reset-at")))


def _window_of_object(window: object) -> RateLimitWindow | None:
    return _window(*(_mapping(window).get(name) for name in ("used_percent", "window_minutes", "reset_at")))


def _window(used_percent: object, window_minutes: object, reset_at: object) -> RateLimitWindow | None:
    used = _number(used_percent)
    return None if used is None else RateLimitWindow(used, _integer(window_minutes), _integer(reset_at))


def _credits(has_credits: object, unlimited: object, balance: object) -> Credits | None:
    if has_credits is None:
        return None
    return Credits(_boolean(has_credits), _boolean(unlimited), label(balance))


def _boolean(value: object) -> bool:
    return value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower(), False)


def _number(value: object) -> float | None:
    """Return a number from a field or from JSON, or ``None`` unless it is finite and at least 0."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _integer(value: object) -> int:
    """Return an integer from a field or from JSON, or 0 if it is invalid or out of any sensible range."""
    number = _number(value)
    return int(number) if number is not None and number <= _LARGEST_INTEGER else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
