"""Parses, merges and renders sing-box's usage file. Pure; no I/O.

Source: sing-box, service/ocm/service_usage.go, in its form since 1.13 (``context_window``, ``week_start_unix``); older
files have fewer fields, and ``prompt_tokens`` and ``completion_tokens`` instead of ``input_tokens`` and
``output_tokens``. Costs are cents there and millionths of a dollar here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from ocm_wsgi.quota.limits import MICRO_PER_USD

#: The context window that sing-box reports for turns whose price does not depend on their length.
STANDARD_CONTEXT_WINDOW = 272_000

# The tiers that sing-box distinguishes; it counts all others as the default.
_SERVICE_TIERS = frozenset({"flex", "priority"})
_DEFAULT_TIER = "default"

_MICRO_PER_CENT = MICRO_PER_USD // 100


@dataclass(frozen=True)
class Statistics:
    """The usage of some turns. As in sing-box, turns whose usage is unknown do not count."""

    request_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Combination:
    """What a price depends on, and the week. Create it with ``combination``, which converts to sing-box's names.

    :ivar week_start: Unix seconds, 0 if unknown.
    """

    model: str
    service_tier: str
    context_window: int
    week_start: int


@dataclass(frozen=True)
class Entry:
    """One combination with its sums. ``total`` includes users without a name, who are not in ``by_user``."""

    combination: Combination
    total: Statistics
    by_user: Mapping[str, Statistics]


def combination(model: str, service_tier: str, context_window: int, week_start: int | None) -> Combination:
    """Return a combination, named as in sing-box."""
    tier = service_tier.strip().lower()
    return Combination(
        model,
        tier if tier in _SERVICE_TIERS else _DEFAULT_TIER,
        context_window if context_window > 0 else STANDARD_CONTEXT_WINDOW,
        max(week_start or 0, 0),
    )


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries with those of the same combination added up, in the order of first appearance."""
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
    """Parse a usage file of any version of sing-box.

    :raises ValueError: it is not a usage file.
    """
    document = json.loads(text)
    return merged(_entry(found) for found in _get(_object(document), "combinations", list, []))


def render(entries: Iterable[Entry], updated_at: datetime) -> str:
    """Return the text of a usage file.

    :param updated_at: with a time zone.
    """
    entries = list(entries)
    document = {
        "last_updated": updated_at.isoformat().replace("+00:00", "Z"),
        "costs": _costs(entries),
        "combinations": [_combination_json(entry) for entry in entries],
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def week_key(week_start: int) -> str:
    """Return the name of a week: its start in local time, as in ``2026-03-02 09:00:00 UTC+5:30``."""
    start = datetime.fromtimestamp(week_start).astimezone()
    offset = start.utcoffset() or timedelta(0)
    hours, minutes = divmod(abs(offset) // timedelta(minutes=1), 60)
    sign = "-" if offset < timedelta(0) else "+"
    return f"{start:%Y-%m-%d %H:%M:%S} UTC{sign}{hours}" + (f":{minutes:02d}" if minutes else "")


def _entry(document: Any) -> Entry:
    found = _object(document)
    key = combination(
        _get(found, "model", str),
        _get(found, "service_tier", str, ""),
        _get(found, "context_window", int, 0),
        _get(found, "week_start_unix", int, 0),
    )
    by_user = _get(found, "by_user", dict, {})
    return Entry(
        key,
        _statistics(_get(found, "total", dict, {})),
        {name: _statistics(_object(each)) for name, each in by_user.items()},
    )


def _statistics(found: Mapping[str, Any]) -> Statistics:
    return Statistics(
        request_count=_get(found, "request_count", int, 0),
        input_tokens=_get(found, "input_tokens", int, 0) or _get(found, "prompt_tokens", int, 0),
        output_tokens=_get(found, "output_tokens", int, 0) or _get(found, "completion_tokens", int, 0),
        cached_tokens=_get(found, "cached_tokens", int, 0),
        cost_micro_usd=round(_get(found, "cost_usd", (int, float), 0) * MICRO_PER_USD),
    )


def _object(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ValueError("not an object where one was expected")
    return document


def _get(found: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    value = found.get(name)
    if value is None:
        value = default
    if not isinstance(value, kind):
        raise ValueError(f"{name} is missing or not of the right type")
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
    # sing-box omits these two if no week is known.
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
    """Return dollars rounded half up to cents, and whole dollars without a fraction, as Go writes them."""
    dollars, cents = divmod((micro_usd + _MICRO_PER_CENT // 2) // _MICRO_PER_CENT, 100)
    return dollars if cents == 0 else (dollars * 100 + cents) / 100
