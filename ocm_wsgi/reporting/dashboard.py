"""The data of the dashboard's pages, computed from the ledger, the quota and the credential. No Flask.

The caller decides whose data a page shows; a ``user`` of ``None`` means all users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.queries import Counts, Sum
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.credentials import CredentialSource, Mode
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.quota.limits import DAY_SECONDS, MEASURES, PERIOD_NAMES, Cycle, Period

#: How many days charts and sums cover, including today.
DAYS = 30
WEEK_DAYS = 7

#: How many models have a colour of their own; the others share one.
MAX_MODELS = 5
OTHERS = "others"

# No pace is shown before this much of a window has passed, in percent.
_EARLY_PERCENT = 3.0
# A difference from the pace up to this counts as on it, in percent.
_NEAR_PERCENT = 5.0

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Gauge:
    """One of upstream's windows, for people.

    :ivar used_percent: of the window, 0 to 100 and sometimes more.
    :ivar pace_percent: how much of its time has passed.
    :ivar summary: how the usage compares with the time passed, in plain words.
    :ivar lasts_until: Unix seconds when it will be used up at the pace so far; ``None`` if it will last until it ends,
        or that is unknown.
    :ivar outside: percent that were used outside this service.
    """

    name: str
    used_percent: float
    pace_percent: float
    resets_at: int | None
    summary: str
    lasts_until: float | None
    outside: float
    level: Level

    @property
    def left_percent(self) -> float:
        return max(100.0 - self.used_percent, 0.0)


@dataclass(frozen=True)
class Subscription:
    """How full the subscription's windows are.

    :ivar shares: each user's share of each window, in percent; ``None`` if there are windows of several accounts.
    """

    gauges: Sequence[Gauge]
    shares: dict[str, dict[Period, float]] | None


@dataclass(frozen=True)
class Amount:
    """The usage of some turns. ``tokens`` are input and output together."""

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
class UserUsage:
    """The usage of one user, or of all users: today, in 7 days, in 30 days, and on each day in micro-dollars."""

    name: str
    today: Amount
    week: Amount
    month: Amount
    daily: Sequence[int]


@dataclass(frozen=True)
class Day:
    """One day's cost in micro-dollars, for each of ``UsageSummary.models``.

    :ivar start: Unix seconds.
    """

    start: int
    costs: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.costs)


@dataclass(frozen=True)
class UsageSummary:
    """The usage of 30 days.

    :ivar users: by cost, the highest first.
    :ivar models: by cost, the highest first; the last may stand for all others.
    """

    total: UserUsage
    users: Sequence[UserUsage]
    models: Sequence[str]
    days: Sequence[Day]


@dataclass(frozen=True)
class Health:
    """Whether turns can be served, and why or why not, in sentences."""

    is_healthy: bool
    title: str
    sentences: Sequence[str]


def subscriptions(window_history: WindowHistory, credentials: Sequence[str], now: float) -> Subscription:
    """Return how full the windows of all accounts are.

    :param credentials: the tags of the accounts, which name the windows if there are several.
    :raises StateError: the database cannot be read.
    """
    if len(credentials) == 1:
        return subscription(window_history, credentials[0], now)
    gauges = [
        replace(gauge, name=f"{tag}: {gauge.name}")
        for tag in credentials
        for gauge in subscription(window_history, tag, now).gauges
    ]
    return Subscription(gauges, None)


def subscription(window_history: WindowHistory, credential: str, now: float) -> Subscription:
    """Return how full the subscription's windows are.

    :raises StateError: the database cannot be read.
    """
    gauges: list[Gauge] = []
    shares: dict[str, dict[Period, float]] = {}
    for period in MEASURES:
        found = window_history.shares(credential, period)
        if found is None:
            continue
        cycle, window_shares = found
        gauges.append(gauge(period, cycle, window_shares.used_percent, window_shares.outside, now))
        if now < cycle.end:
            for user, percent in window_shares.percents.items():
                shares.setdefault(user, {})[period] = percent
    return Subscription(gauges, shares)


def gauge(period: Period, cycle: Cycle, used: float, outside: float, now: float) -> Gauge:
    """Return one window as a gauge."""
    if now >= cycle.end:
        return Gauge(
            PERIOD_NAMES[period].capitalize(),
            0.0,
            0.0,
            None,
            "Not started: it starts with the next turn",
            None,
            0.0,
            "ok",
        )
    passed = min(max((now - cycle.start) / (cycle.end - cycle.start) * 100, 0.0), 100.0)
    summary, lasts_until, level = _pace(used, passed, cycle, now)
    return Gauge(PERIOD_NAMES[period].capitalize(), used, passed, cycle.end, summary, lasts_until, outside, level)


def _pace(used: float, passed: float, cycle: Cycle, now: float) -> tuple[str, float | None, Level]:
    if used >= 100:
        return "Used up", None, "bad"
    if passed < _EARLY_PERCENT or used <= 0:
        return ("Hardly used yet" if used < _NEAR_PERCENT else "Just started"), None, "ok"
    difference = used / passed * 100 - 100
    if abs(difference) <= _NEAR_PERCENT:
        return "On pace; lasts until it resets", None, "ok"
    if difference < 0:
        return f"{-difference:.0f} % under pace; lasts until it resets", None, "ok"
    lasts_until = cycle.start + (now - cycle.start) * 100 / used
    summary = f"{difference:.0f} % over pace" if difference < 200 else f"{used / passed:.0f} times the pace"
    return summary, lasts_until, "bad" if used >= 90 else "warn"


def usage(ledger: Ledger, now: float, user: str | None = None) -> UsageSummary:
    """Return the usage of the last 30 days by user, model and day (in UTC).

    :raises StateError: the database cannot be read.
    """
    today = int(now // DAY_SECONDS) * DAY_SECONDS
    starts = [today - DAY_SECONDS * back for back in reversed(range(DAYS))]
    sums = ledger.sums(starts[0], None, ("user", "model", "day"), user=user)
    by_user: dict[str, list[Sum]] = {}
    for sum_ in sums:
        by_user.setdefault(str(sum_.group["user"]), []).append(sum_)
    users = [_user_usage(name, of_user, starts) for name, of_user in by_user.items()]
    models, days = _days(sums, starts)
    return UsageSummary(
        total=_user_usage("", sums, starts),
        users=sorted(users, key=lambda usage: usage.month.cost_micro_usd, reverse=True),
        models=models,
        days=days,
    )


def _user_usage(name: str, sums: Iterable[Sum], starts: Sequence[int]) -> UserUsage:
    by_day = dict.fromkeys(starts, Amount())
    for sum_ in sums:
        day = int(sum_.group["day"] or 0)
        by_day[day] = by_day.get(day, Amount()) + _amount(sum_.counts)
    amounts = [by_day[start] for start in starts]
    # The database's clock may be slightly ahead of ours: a later day counts as today.
    amounts[-1] = sum((amount for day, amount in by_day.items() if day > starts[-1]), amounts[-1])
    month = sum(amounts, Amount())
    week = sum(amounts[-WEEK_DAYS:], Amount())
    return UserUsage(name, amounts[-1], week, month, [amount.cost_micro_usd for amount in amounts])


def _amount(counts: Counts) -> Amount:
    tokens = counts.input_tokens + counts.output_tokens
    return Amount(counts.turns, tokens, counts.cost_micro_usd, counts.turns_unpriced)


def _days(sums: Sequence[Sum], starts: Sequence[int]) -> tuple[Sequence[str], Sequence[Day]]:
    costs: dict[str, int] = {}
    for sum_ in sums:
        model = str(sum_.group["model"])
        costs[model] = costs.get(model, 0) + sum_.counts.cost_micro_usd
    ranked = [model for model in sorted(costs, key=lambda model: costs[model], reverse=True) if costs[model]]
    models = ranked if len(ranked) <= MAX_MODELS + 1 else [*ranked[:MAX_MODELS], OTHERS]
    columns = {model: min(column, MAX_MODELS) for column, model in enumerate(ranked)}
    table = {start: [0] * len(models) for start in starts}
    for sum_ in sums:
        column, row = columns.get(str(sum_.group["model"])), table.get(int(sum_.group["day"] or 0))
        if column is not None and row is not None:
            row[column] += sum_.counts.cost_micro_usd
    return models, [Day(start, row) for start, row in table.items()]


def health_of_all(credentials: Mapping[str, CredentialSource]) -> Health:
    """Return whether all accounts can serve turns, and if not, what the owner can do.

    :param credentials: by the tag of the account.
    """
    found = {tag: health(source) for tag, source in credentials.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    sick = [tag for tag, each in found.items() if not each.is_healthy]
    if sick:
        title = f"{len(sick)} of {len(found)} credentials need attention"
        return Health(False, title, [f"{tag}: {sentence}" for tag in sick for sentence in found[tag].sentences])
    return Health(True, f"All {len(found)} credentials work", [", ".join(found) + "."])


def health(credentials: CredentialSource) -> Health:
    """Return whether turns can be served, and if not, what the owner can do."""
    try:
        credential = credentials.peek()
    except CredentialError as exc:
        return Health(False, "The credential needs attention", [exc.message])
    if credential.mode is Mode.API_KEY:
        return Health(True, "The credential works", ["An OpenAI API key. It has no usage windows."])
    plan = f" with the {credential.plan_type.title()} plan" if credential.plan_type else ""
    return Health(True, "The credential works", [f"Signed in to ChatGPT{plan}. It is refreshed automatically."])
