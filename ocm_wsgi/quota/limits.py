"""Usage limits of users: parsing, formatting, and the windows they apply to. Pure; no I/O.

Windows are half-open, ``start <= t < end``, in Unix seconds. Those of 5 hours and of a week follow upstream's cycle if
it is known, so that a user's limit resets together with the subscription. Otherwise they are fixed in UTC (5 hours
counted from 1970, weeks from Monday). Days and months are in UTC.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal, Protocol, get_args

Unit = Literal["requests", "tokens", "usd", "percent"]
Period = Literal["5h", "day", "week", "month"]

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
LENGTHS: Mapping[Period, int] = {"5h": 5 * HOUR_SECONDS, "day": DAY_SECONDS, "week": 7 * DAY_SECONDS}
PERIODS: tuple[Period, ...] = get_args(Period)
#: Costs are whole micro-dollars everywhere.
MICRO_PER_USD = 1_000_000
#: For people, within a sentence.
PERIOD_NAMES: Mapping[Period, str] = {"5h": "5 hours", "day": "day", "week": "week", "month": "month"}

#: The subscription's window to which a percentage refers. Upstream has no daily or monthly window: a percentage per day
#: or month is a share of the week's allowance, used within the day or month.
MEASURED_BY: Mapping[Period, Period] = {"5h": "5h", "day": "week", "week": "week", "month": "week"}

#: The periods for which upstream has windows.
MEASURES: tuple[Period, ...] = ("5h", "week")

#: Ends of upstream's windows that differ by at most this, in seconds, are of the same window.
SAME_END_SECONDS = 60

# 1970 began on a Thursday; this is its first Monday.
_FIRST_MONDAY = 4 * DAY_SECONDS

_LIMIT = re.compile(
    r"(?P<dollar>\$)?\s*(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<factor>[km](?![a-z]))?\s*(?P<unit>%|[a-z]+)?"
    r"\s*(?:/|\s(?:per|an?|each|every)\s|\sin\s)\s*(?P<period>[a-z0-9 ]+)",
    re.IGNORECASE | re.ASCII,
)
_UNITS: Mapping[str, Unit] = {
    **dict.fromkeys(("%", "percent", "pct"), "percent"),
    **dict.fromkeys(("usd", "dollar", "dollars"), "usd"),
    **dict.fromkeys(("token", "tokens"), "tokens"),
    **dict.fromkeys(("request", "requests", "turn", "turns"), "requests"),
}
_PERIODS: Mapping[str, Period] = {
    **dict.fromkeys(("5h", "5 h", "5 hours", "5hours"), "5h"),
    **dict.fromkeys(("day", "1d", "24h"), "day"),
    **dict.fromkeys(("week", "7d"), "week"),
    "month": "month",
}
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


class LimitsConfig(Protocol):
    """The shape of a limit in the configuration: independent measures in one period."""

    @property
    def per(self) -> Period: ...
    @property
    def requests(self) -> int | None: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def usd(self) -> Decimal | None: ...
    @property
    def percent(self) -> Decimal | None: ...


@dataclass(frozen=True)
class Limit:
    """One limit.

    :ivar amount: more than 0; an integer for requests and tokens; at most 100 for a percentage. A request is refused
        once this much is used.
    """

    amount: Decimal
    unit: Unit
    period: Period

    def __str__(self) -> str:
        """Return the limit in the format of ``parse``."""
        return f"{_amount_text(self.amount, self.unit)} per {self.period}"


@dataclass(frozen=True)
class Cycle:
    """Upstream's own window, in Unix seconds."""

    start: int
    end: int


@dataclass(frozen=True)
class Span:
    """The window of a limit at some time, in Unix seconds."""

    start: int
    end: int


@dataclass(frozen=True)
class Totals:
    """The use by some turns. ``tokens`` includes input and output."""

    requests: int = 0
    tokens: int = 0
    cost_micro_usd: int = 0


def parse(text: str) -> Limit:
    """Parse a limit, such as ``30% per week``, ``2M tokens per 5h``, ``$20/month`` or ``100 requests a day``.

    :raises ValueError: with a sentence for the author of the limit.
    """
    found = _LIMIT.fullmatch(text.strip())
    if not found:
        raise ValueError(_invalid(text))
    unit = "usd" if found["dollar"] and not found["unit"] else _UNITS.get((found["unit"] or "").lower())
    period = _PERIODS.get(" ".join(found["period"].lower().split()))
    if unit is None or period is None or (found["dollar"] and unit != "usd"):
        raise ValueError(_invalid(text))
    amount = Decimal(found["number"].replace("_", "")) * _FACTORS[(found["factor"] or "").lower()]
    return _checked(Limit(amount, unit, period), text)


def from_config(limits: Iterable[LimitsConfig]) -> tuple[Limit, ...]:
    """Return the limits in the configuration, one for each measure."""
    return tuple(
        Limit(Decimal(amount), unit, limit.per)
        for limit in limits
        for unit in get_args(Unit)
        if (amount := getattr(limit, unit)) is not None
    )


def span(period: Period, now: float, cycle: Cycle | None = None) -> Span:
    """Return the window of a period that contains ``now``.

    :param cycle: upstream's last known window of that period. After its end, the next ones are assumed to follow
        without a gap until upstream reports a new one.
    """
    if period == "month":
        return _month(now)
    length = LENGTHS[period]
    if cycle is not None and period in MEASURES:
        if cycle.start <= now < cycle.end:
            return Span(cycle.start, cycle.end)
        origin = cycle.end
    else:
        origin = _FIRST_MONDAY if period == "week" else 0
    start = origin + math.floor((now - origin) / length) * length
    return Span(start, start + length)


def used(limit: Limit, use: Totals, percent_per_usd: float | None) -> Decimal:
    """Return how much has been used in a limit's window, in the limit's unit.

    :param percent_per_usd: the share of upstream's window that one dollar uses (see ``shares``); ``None`` while it is
        unknown, in which case a percentage is 0.
    """
    if limit.unit == "requests":
        return Decimal(use.requests)
    if limit.unit == "tokens":
        return Decimal(use.tokens)
    cost_usd = Decimal(use.cost_micro_usd) / MICRO_PER_USD
    return cost_usd if limit.unit == "usd" else cost_usd * Decimal(percent_per_usd or 0)


def _amount_text(amount: Decimal, unit: Unit) -> str:
    if unit == "percent":
        return f"{_plain(amount)}%"
    if unit == "usd":
        return f"{_plain(amount)} USD"
    for suffix, factor in (("M", _FACTORS["m"]), ("k", _FACTORS["k"])):
        if unit == "tokens" and amount % factor == 0:
            return f"{_plain(amount / factor)}{suffix} {unit}"
    return f"{_plain(amount)} {unit if amount != 1 else unit[:-1]}"


def _plain(amount: Decimal) -> str:
    """Format without an exponent and without trailing zeros of a fraction."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _checked(limit: Limit, text: str) -> Limit:
    if limit.amount <= 0:
        raise ValueError(f"{text!r}: the amount must be more than 0 (to lock a user out, disable the user)")
    if limit.unit == "percent" and limit.amount > 100:
        raise ValueError(f"{text!r}: the subscription has only 100 percent")
    if limit.unit in ("requests", "tokens") and limit.amount % 1:
        raise ValueError(f"{text!r}: {limit.unit} must be a whole number")
    return limit


def _invalid(text: str) -> str:
    return (
        f"{text!r} is not a limit; write an amount of %, USD, tokens or requests and one of 5h, day, week, month: "
        "'30% per week', '5 USD per day', '2M tokens per 5h', '100 requests per day'"
    )


def _month(now: float) -> Span:
    moment = datetime.fromtimestamp(now, timezone.utc)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    next_first = (first + timedelta(days=32)).replace(day=1)
    return Span(int(first.timestamp()), int(next_first.timestamp()))


def period_of(minutes: int) -> Period | None:
    """Return the period of an upstream window by its length, or ``None`` for an unknown length.

    The length may differ by a tenth, because upstream has been seen to round.
    """
    for period in MEASURES:
        if abs(minutes * 60 - LENGTHS[period]) <= LENGTHS[period] / 10:
            return period
    return None
