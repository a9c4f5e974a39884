"""What the pages of the dashboard show, computed from the ledger, the quota and the users. No Flask.

What is whose is decided by who calls: a ``user`` of ``None`` means everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.queries import DAY_SECONDS, Counts, Sum
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.credentials import CredentialSource, Mode
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.quota.limits import MEASURES, PERIOD_NAMES, Cycle, Period

#: How far back charts and sums go, today included.
DAYS = 30
WEEK_DAYS = 7

#: So many models have a colour of their own; the others share one.
MOST_MODELS = 5
OTHERS = "others"

#: Before so much of a window has passed nothing can be said of its pace, in percent.
_EARLY_PERCENT = 3.0
#: Nearer to the pace than this counts as on it, in percent.
_NEAR_PERCENT = 5.0


@dataclass(frozen=True)
class Gauge:
    """One of upstream's windows, for people.

    :ivar used_percent: of the window, 0 to 100 and sometimes more.
    :ivar pace_percent: how much of its time has passed.
    :ivar words: how its use compares with that, in plain words.
    :ivar lasts_until: Unix seconds when it will be used up at the pace so far; ``None`` when it will not be before it
        ends, or that cannot be told.
    :ivar outside: percent that were used past this service.
    """

    name: str
    used_percent: float
    pace_percent: float
    resets_at: int | None
    words: str
    lasts_until: float | None
    outside: float
    level: str

    @property
    def left_percent(self) -> float:
        return max(100.0 - self.used_percent, 0.0)


@dataclass(frozen=True)
class Subscription:
    """How full the subscription's windows are, and which part of each is whose, in percent by user and period."""

    gauges: Sequence[Gauge]
    parts: dict[str, dict[Period, float]]


@dataclass(frozen=True)
class Amount:
    """What some turns used. ``tokens`` are input and output together."""

    turns: int = 0
    tokens: int = 0
    cost_micro_usd: int = 0
    unpriced: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.turns + other.turns,
            self.tokens + other.tokens,
            self.cost_micro_usd + other.cost_micro_usd,
            self.unpriced + other.unpriced,
        )


@dataclass(frozen=True)
class Part:
    """What one user, or all, used: today, in 7 days, in 30 days, and on each day in micro-dollars."""

    name: str
    today: Amount
    week: Amount
    month: Amount
    daily: Sequence[int]


@dataclass(frozen=True)
class Day:
    """One day's cost in micro-dollars, for each of ``Used.models``.

    :ivar start: Unix seconds.
    """

    start: int
    costs: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.costs)


@dataclass(frozen=True)
class Used:
    """What was used in 30 days.

    :ivar users: those who used most first.
    :ivar models: those that cost most first; the last may stand for all others.
    """

    total: Part
    users: Sequence[Part]
    models: Sequence[str]
    days: Sequence[Day]


@dataclass(frozen=True)
class Health:
    """What works and what does not, in a sentence each."""

    is_well: bool
    title: str
    sentences: Sequence[str]


def subscription(window_history: WindowHistory, credential: str, now: float) -> Subscription:
    """Say how the subscription's windows stand.

    :raises StateError: the database cannot be read.
    """
    gauges: list[Gauge] = []
    parts: dict[str, dict[Period, float]] = {}
    for period in MEASURES:
        found = window_history.shares(credential, period)
        if found is None:
            continue
        cycle, shares = found
        gauges.append(gauge(period, cycle, shares.used_percent, shares.outside, now))
        if now < cycle.end:
            for user, percent in shares.percents.items():
                parts.setdefault(user, {})[period] = percent
    return Subscription(gauges, parts)


def gauge(period: Period, cycle: Cycle, used: float, outside: float, now: float) -> Gauge:
    """Describe a window."""
    if now >= cycle.end:
        return Gauge(
            PERIOD_NAMES[period].capitalize(),
            0.0,
            0.0,
            None,
            "Untouched: it begins with the next turn",
            None,
            0.0,
            "well",
        )
    passed = min(max((now - cycle.start) / (cycle.end - cycle.start) * 100, 0.0), 100.0)
    words, lasts_until, level = _pace(used, passed, cycle, now)
    return Gauge(PERIOD_NAMES[period].capitalize(), used, passed, cycle.end, words, lasts_until, outside, level)


def _pace(used: float, passed: float, cycle: Cycle, now: float) -> tuple[str, float | None, str]:
    if used >= 100:
        return "Used up", None, "bad"
    if passed < _EARLY_PERCENT or used <= 0:
        return ("Hardly used yet" if used < _NEAR_PERCENT else "Just begun"), None, "well"
    difference = used / passed * 100 - 100
    if abs(difference) <= _NEAR_PERCENT:
        return "On the pace; lasts until it resets", None, "well"
    if difference < 0:
        return f"{-difference:.0f} % under the pace; lasts until it resets", None, "well"
    lasts_until = cycle.start + (now - cycle.start) * 100 / used
    words = f"{difference:.0f} % over the pace" if difference < 200 else f"{used / passed:.0f} times the pace"
    return words, lasts_until, "bad" if used >= 90 else "warn"


def used(ledger: Ledger, now: float, user: str | None = None) -> Used:
    """Add up what was used in the last 30 days, by user, model and day (those of UTC).

    :raises StateError: the database cannot be read.
    """
    today = int(now // DAY_SECONDS) * DAY_SECONDS
    starts = [today - DAY_SECONDS * back for back in reversed(range(DAYS))]
    sums = ledger.sums(starts[0], None, ("user", "model", "day"), user=user)
    by_user: dict[str, list[Sum]] = {}
    for sum_ in sums:
        by_user.setdefault(str(sum_.group["user"]), []).append(sum_)
    users = [_part(name, of_user, starts) for name, of_user in by_user.items()]
    models, days = _days(sums, starts)
    return Used(
        total=_part("", sums, starts),
        users=sorted(users, key=lambda part: part.month.cost_micro_usd, reverse=True),
        models=models,
        days=days,
    )


def _part(name: str, sums: Iterable[Sum], starts: Sequence[int]) -> Part:
    by_day = dict.fromkeys(starts, Amount())
    for sum_ in sums:
        day = int(sum_.group["day"] or 0)
        by_day[day] = by_day.get(day, Amount()) + _amount(sum_.counts)
    amounts = [by_day[start] for start in starts]
    # The database's clock may be ahead of ours by a moment: what lies beyond today counts as today.
    amounts[-1] = sum((amount for day, amount in by_day.items() if day > starts[-1]), amounts[-1])
    month = sum(amounts, Amount())
    week = sum(amounts[-WEEK_DAYS:], Amount())
    return Part(name, amounts[-1], week, month, [amount.cost_micro_usd for amount in amounts])


def _amount(counts: Counts) -> Amount:
    tokens = counts.input_tokens + counts.output_tokens
    return Amount(counts.turns, tokens, counts.cost_micro_usd, counts.turns_unpriced)


def _days(sums: Sequence[Sum], starts: Sequence[int]) -> tuple[Sequence[str], Sequence[Day]]:
    costs: dict[str, int] = {}
    for sum_ in sums:
        model = str(sum_.group["model"])
        costs[model] = costs.get(model, 0) + sum_.counts.cost_micro_usd
    ranked = [model for model in sorted(costs, key=lambda model: costs[model], reverse=True) if costs[model]]
    models = ranked if len(ranked) <= MOST_MODELS + 1 else [*ranked[:MOST_MODELS], OTHERS]
    places = {model: min(place, MOST_MODELS) for place, model in enumerate(ranked)}
    table = {start: [0] * len(models) for start in starts}
    for sum_ in sums:
        place, row = places.get(str(sum_.group["model"])), table.get(int(sum_.group["day"] or 0))
        if place is not None and row is not None:
            row[place] += sum_.counts.cost_micro_usd
    return models, [Day(start, row) for start, row in table.items()]


def health(credentials: CredentialSource) -> Health:
    """Say whether turns can be served, and if not, what the owner can do."""
    try:
        credential = credentials.peek()
    except CredentialError as exc:
        return Health(False, "The credential needs you", [exc.message])
    if credential.mode is Mode.API_KEY:
        return Health(True, "The credential is good", ["An API key of the platform: it has no windows."])
    plan = f" with the plan {credential.plan_type.title()}" if credential.plan_type else ""
    return Health(True, "The credential is good", [f"Signed in to ChatGPT{plan}. It is renewed by itself."])
