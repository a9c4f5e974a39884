"""Estimates each user's share of the subscription's windows, and what was used outside the service. Pure; no I/O.

Upstream reports how full its window is, in percent, usually integers; the ledger knows the cost of our turns. What is
unknown is how much of the window one dollar uses. Call it the *rate*. With a known rate, our share is the rate times
our cost, and the owner used the remainder outside this service (``outside``).

Use outside can only add. Over any interval the window rises by at least the rate times our cost in that interval. So
the intervals with the smallest rise for our cost are those without use outside, and they reveal the rate. Three things
interfere: upstream rounds, mostly to whole percents; upstream may count a turn slightly earlier or later than it is
recorded here; and intervals long enough to average that out are seldom free of use outside. Therefore, in each window:

* A first guess is the smallest slope of any interval that rises by ``SHORT_RISE`` percent or more, rounding included.
* A step that rises much more than the guess explains contains use outside, and its excess is removed.
* The rate is a low quantile of the remaining slopes, over intervals that rise by ``LONG_RISE`` percent or more if there
  are any: a quantile, because the minimum is a counting error, and long intervals, so that errors average out.

The result is the lowest rate of this window and a few earlier ones, as the rate depends on the subscription's plan.
Only a few are used, so that a change of plan is forgotten.

If the owner never uses the subscription outside, the rate does not matter: all use is divided by cost. If the owner has
used it in every interval ever observed, the two cannot be distinguished, and users are charged for both.
The estimate assumes that upstream weights models roughly as its prices do (its credits are proportional to its prices),
and that prices are known: turns without a price count as use outside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocm_wsgi.quota.limits import MICRO_PER_USD

#: Percent. Rises below the first are mostly rounding; from the second on, rounding matters little.
SHORT_RISE = 5.0
LONG_RISE = 20.0

#: The quantile of the slopes, by weight, that is taken as the rate.
QUANTILE = 0.3

#: Percent. Rounding hides less than this.
ROUNDING = 1.0

#: A step contains use outside if it exceeds the guess by more than this many percent plus this many of our turns.
EXCESS_PERCENT = 1.5
EXCESS_TURNS = 4

#: How many earlier windows are used for the rate.
EARLIER_WINDOWS = 3

#: Percent. A smaller rise since the last stored observation is not stored.
STEP = 0.5

#: With more observations in a window some are skipped, because the work grows with the square of their number.
MOST_OBSERVATIONS = 120


@dataclass(frozen=True)
class Observation:
    """A rise of upstream's percentage.

    :ivar used_percent: as reported by upstream.
    :ivar cost_micro_usd: of all our turns in the window that had ended by then.
    :ivar cost_before_micro_usd: the same at the previous observation, when the percentage had not yet risen.
    """

    used_percent: float
    cost_micro_usd: int
    cost_before_micro_usd: int


@dataclass(frozen=True)
class Shares:
    """The estimated composition of a window's use.

    :ivar used_percent: the total now: as last reported, plus the estimate for our turns since then.
    :ivar percent_per_usd: how much one dollar uses; ``None`` while it is unknown. A user's cost times this is the
        user's percentage.
    :ivar outside: the percentage not explained by our own turns.
    :ivar percents: by user.
    """

    used_percent: float
    percent_per_usd: float | None
    outside: float
    percents: Mapping[str, float]


def shares(
    observations: Sequence[Observation],
    costs_micro_usd: Mapping[str, int],
    earlier: Sequence[Sequence[Observation]] = (),
) -> Shares:
    """Return the shares in the current window.

    :param observations: in this window, oldest first; empty if upstream has not reported it yet.
    :param costs_micro_usd: by user, of all the user's turns in this window so far.
    :param earlier: the observations in earlier windows, newest first.
    """
    earlier_rate = min((_rate(tuple(window)) for window in earlier[:EARLIER_WINDOWS]), default=math.inf)
    known = min(_rate(tuple(observations)), earlier_rate)
    last = observations[-1] if observations else Observation(0.0, 0, 0)
    ours = min(last.used_percent, known * last.cost_micro_usd) if last.cost_micro_usd else 0.0
    rate = known
    if last.cost_micro_usd and (last.used_percent >= SHORT_RISE or earlier_rate == math.inf):
        # Without use outside, all use is ours, whatever the rate; early in a window, rounding matters too much.
        rate = ours / last.cost_micro_usd
    if rate == math.inf:
        return Shares(last.used_percent, None, last.used_percent, dict.fromkeys(costs_micro_usd, 0.0))
    outside = last.used_percent - ours
    cost = sum(costs_micro_usd.values())
    expected = last.used_percent + rate * max(cost - last.cost_micro_usd, 0)
    used_percent = min(expected, max(100.0, last.used_percent))
    if cost:
        rate = (used_percent - outside) / cost
    return Shares(
        used_percent, rate * MICRO_PER_USD, outside, {user: rate * part for user, part in costs_micro_usd.items()}
    )


@functools.lru_cache(maxsize=64)
def _rate(observations: tuple[Observation, ...]) -> float:
    """Return the rate in one window, in percent per micro-dollar; infinity if it cannot be estimated."""
    sampled = observations[:: len(observations) // MOST_OBSERVATIONS + 1]
    costs = [0, *(observation.cost_micro_usd for observation in sampled)]
    levels = [0.0, *(float(observation.used_percent) for observation in sampled)]
    guess = min(
        (rise_per_cost + ROUNDING / cost for rise_per_cost, cost in _slopes(levels, costs, SHORT_RISE)), default=0
    )
    if not guess:
        return (levels[-1] + ROUNDING) / costs[-1] if costs[-1] else math.inf
    levels = _without_excess(levels, costs, guess, _turn_percent(sampled, guess))
    for least in (LONG_RISE, LONG_RISE / 2, SHORT_RISE, 0.0):
        slopes = _slopes(levels, costs, least)
        if slopes:
            return _quantile(slopes, QUANTILE)
    return guess


def _turn_percent(observations: Sequence[Observation], rate: float) -> float:
    """Return the typical use between two observations, stored or not: one turn, or some that run concurrently."""
    costs = sorted(observation.cost_micro_usd - observation.cost_before_micro_usd for observation in observations)
    return rate * costs[len(costs) // 2]


def _slopes(levels: Sequence[float], costs: Sequence[int], least: float) -> list[tuple[float, float]]:
    """Return rise per cost, and the cost as its weight, of all intervals that rise by ``least`` or more."""
    return [
        ((level - levels[start]) / (cost - costs[start]), float(cost - costs[start]))
        for end, (level, cost) in enumerate(zip(levels, costs, strict=True))
        for start in range(end)
        if cost > costs[start] and level - levels[start] >= least
    ]


def _without_excess(levels: Sequence[float], costs: Sequence[int], rate: float, turn_percent: float) -> list[float]:
    """Return the levels as they would be without use outside, as far as that is visible."""
    allowed = EXCESS_PERCENT + EXCESS_TURNS * turn_percent
    # A whole percent is reported soon after it is reached, but a jump leaves half of one hidden on average.
    is_rounded = all(level.is_integer() for level in levels)
    hidden = max(ROUNDING - turn_percent, 0.0) / 2 if is_rounded else 0.0
    adjusted = [0.0]
    for index in range(1, len(levels)):
        rise, expected = levels[index] - levels[index - 1], rate * (costs[index] - costs[index - 1])
        adjusted.append(adjusted[-1] + (rise if rise - expected <= allowed else expected - hidden))
    return adjusted


def _quantile(weighted: list[tuple[float, float]], part: float) -> float:
    """Return the value below which ``part`` of the weight lies."""
    remaining = part * sum(weight for _, weight in weighted)
    ordered = iter(sorted(weighted))
    value, weight = next(ordered)
    while remaining > weight:
        remaining -= weight
        value, weight = next(ordered, (value, remaining))
    return value
