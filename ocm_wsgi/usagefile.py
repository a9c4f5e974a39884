"""The format of sing-box's usage file: reading, adding up and writing it. Pure; no I/O.

Source: sing-box, service/ocm/service_usage.go, in its form since 1.13 (``context_window``, ``week_start_unix``); older
files have fewer fields, and ``prompt_tokens`` and ``completion_tokens`` for today's ``input_tokens`` and
``output_tokens``. Costs are cents there and millionths of a dollar here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

#: What sing-box calls the context window of all turns whose price does not depend on their length.
STANDARD_CONTEXT_WINDOW = 272_000

#: sing-box knows these, and counts all others as the default.
_SERVICE_TIERS = frozenset({"flex", "priority"})
_DEFAULT_TIER = "default"

_MICRO = 1_000_000
_MICRO_PER_CENT = 10_000


@dataclass(frozen=True)
class Statistics:
    """What some turns used. Turns whose usage is unknown are not counted, as sing-box does not count them."""

    request_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Combination:
    """What a price depends on, and the week. Make it with ``combination``, which knows the names for it.

    :ivar week_start: Unix seconds, 0 when unknown.
    """

    model: str
    service_tier: str
    context_window: int
    week_start: int


@dataclass(frozen=True)
class Entry:
    """One combination with its sums. ``total`` contains those who are not in ``by_user``, having no name."""

    combination: Combination
    total: Statistics
    by_user: Mapping[str, Statistics]


def combination(model: str, service_tier: str, context_window: int, week_start: int | None) -> Combination:
    """Name a combination as sing-box does."""
    tier = service_tier.strip().lower()
    return Combination(
        model,
        tier if tier in _SERVICE_TIERS else _DEFAULT_TIER,
        context_window if context_window > 0 else STANDARD_CONTEXT_WINDOW,
        max(week_start or 0, 0),
    )


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Add up entries of the same combination, in the order in which combinations first appear."""
    found: dict[Combination, Entry] = {}
    for entry in entries:
        before = found.get(entry.combination)
        if before is not None:
            entry = Entry(
                entry.combination,
                before.total + entry.total,
                {
                    name: before.by_user.get(name, Statistics()) + entry.by_user.get(name, Statistics())
                    for name in {**before.by_user, **entry.by_user}
                },
            )
        found[entry.combination] = entry
    return list(found.values())


def parse(text: str | bytes) -> list[Entry]:
    """Read a usage file of any age.

    :raises ValueError: it is not one.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    found = document.get("combinations") or []
    if not isinstance(found, list):
        raise ValueError("combinations is not a list")
    return merged(_entry(each) for each in found)


def render(entries: Iterable[Entry], updated_at: datetime) -> str:
    """Write a usage file.

    :param updated_at: with its time zone, in which weeks are named too.
    """
    entries = list(entries)
    document = {
        "last_updated": updated_at.isoformat().replace("+00:00", "Z"),
        "costs": _costs(entries),
        "combinations": [_combination_json(entry) for entry in entries],
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def week_key(week_start: int) -> str:
    """Name a week by its start in local time, as in ``2026-03-02 09:00:00 UTC+5:30``."""
    start = datetime.fromtimestamp(week_start).astimezone()
    offset = start.utcoffset() or timedelta(0)
    hours, minutes = divmod(abs(offset) // timedelta(minutes=1), 60)
    sign = "-" if offset < timedelta(0) else "+"
    return f"{start:%Y-%m-%d %H:%M:%S} UTC{sign}{hours}" + (f":{minutes:02d}" if minutes else "")


def _entry(found: Any) -> Entry:
    if not isinstance(found, dict) or not isinstance(found.get("model"), str):
        raise ValueError("a combination without a model")
    tier = found.get("service_tier") or _DEFAULT_TIER
    if not isinstance(tier, str):
        raise ValueError("service_tier is not a string")
    by_user = found.get("by_user") or {}
    if not isinstance(by_user, dict):
        raise ValueError("by_user is not an object")
    return Entry(
        combination(found["model"], tier, _whole(found, "context_window"), _whole(found, "week_start_unix")),
        _statistics(found.get("total") or {}),
        {name: _statistics(each) for name, each in by_user.items()},
    )


def _statistics(found: Any) -> Statistics:
    if not isinstance(found, dict):
        raise ValueError("sums that are not an object")
    cost_usd = found.get("cost_usd", 0)
    if not isinstance(cost_usd, int | float):
        raise ValueError("cost_usd is not a number")
    return Statistics(
        request_count=_whole(found, "request_count"),
        input_tokens=_whole(found, "input_tokens") or _whole(found, "prompt_tokens"),
        output_tokens=_whole(found, "output_tokens") or _whole(found, "completion_tokens"),
        cached_tokens=_whole(found, "cached_tokens"),
        cost_micro_usd=round(cost_usd * _MICRO),
    )


def _whole(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name) or 0
    if not isinstance(value, int):
        raise ValueError(f"{name} is not a whole number")
    return value


def _costs(entries: list[Entry]) -> dict[str, Any]:
    total = 0
    by_user: dict[str, int] = {}
    by_week: dict[str, int] = {}
    by_user_and_week: dict[str, dict[str, int]] = {}
    for entry in entries:
        week = week_key(entry.combination.week_start) if entry.combination.week_start else None
        total += entry.total.cost_micro_usd
        if week:
            by_week[week] = by_week.get(week, 0) + entry.total.cost_micro_usd
        for name, statistics in entry.by_user.items():
            by_user[name] = by_user.get(name, 0) + statistics.cost_micro_usd
            if week:
                weeks = by_user_and_week.setdefault(name, {})
                weeks[week] = weeks.get(week, 0) + statistics.cost_micro_usd
    costs: dict[str, Any] = {"total_usd": _usd(total), "by_user": _all_usd(by_user)}
    # sing-box leaves these two out when it knows of no week.
    if by_week:
        costs["by_week"] = _all_usd(by_week)
    if by_user_and_week:
        costs["by_user_and_week"] = {name: _all_usd(by_user_and_week[name]) for name in sorted(by_user_and_week)}
    return costs


def _combination_json(entry: Entry) -> dict[str, Any]:
    key = entry.combination
    week = {"week_start_unix": key.week_start} if key.week_start else {}
    return {
        "model": key.model,
        "service_tier": key.service_tier,
        "context_window": key.context_window,
        **week,
        "total": _statistics_json(entry.total),
        "by_user": {name: _statistics_json(entry.by_user[name]) for name in sorted(entry.by_user)},
    }


def _statistics_json(statistics: Statistics) -> dict[str, int | float]:
    return {
        "request_count": statistics.request_count,
        "input_tokens": statistics.input_tokens,
        "output_tokens": statistics.output_tokens,
        "cached_tokens": statistics.cached_tokens,
        "cost_usd": _usd(statistics.cost_micro_usd),
    }


def _all_usd(costs: Mapping[str, int]) -> dict[str, int | float]:
    return {name: _usd(costs[name]) for name in sorted(costs)}


def _usd(micro_usd: int) -> int | float:
    """Round to cents, half of one upwards, and write whole dollars without a fraction, as Go does."""
    dollars, cents = divmod((micro_usd + _MICRO_PER_CENT // 2) // _MICRO_PER_CENT, 100)
    return dollars if cents == 0 else (dollars * 100 + cents) / 100
