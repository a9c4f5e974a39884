"""Whose part of the subscription's window is whose, and what the owner used past us. Pure; no I/O.

Upstream says how full its window is, in percent, usually whole ones; the ledger knows what our turns cost. What is
not known is how much of the window one dollar fills. Call it the *rate*. If it were known, our part would be the
rate times our cost, and the rest is what the owner used past us (``outside``).

The owner's use only ever adds. Over any stretch of time the window rises by the rate times our cost in that stretch,
or by more. So the stretches in which it rose least for what we spent are those without use past us, and they tell the
rate. Three things stand in the way: upstream rounds, mostly to whole percents; a turn may be counted a moment earlier
or later than it is recorded here; and stretches long enough to average that out seldom are free of use past us.
Therefore, in each window:

* A first guess is the slope of the least steep stretch of ``SHORT_RISE`` percent or more, rounding granted.
* A step that rises much more than the guess explains is use past us in between, and its excess is taken out.
* The rate is a low quantile of the slopes of what is left, over stretches of ``LONG_RISE`` percent or more where there
  are any: a quantile, as the very least is an error of counting, and long, so that errors average out.

The lowest rate of this window and of some before is taken, as it belongs to the subscription's plan: few of them, so
that a change of plan is forgotten.

Where the owner never uses it past us, the rate does not matter: all that is used is shared out by cost. Where the
owner has used it in every stretch ever seen, nobody can tell the two apart, and users are charged for it.
Rests on upstream weighing models about as its prices do (its credits are proportional to its prices), and on prices
being known: turns without one count as used past us.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocm_wsgi.quota.limits import MICRO_PER_USD

#: Percent. Stretches that rise less than this are mostly rounding; from the second on little of it is left.
SHORT_RISE = 5.0
LONG_RISE = 20.0

#: Which part of the slopes, by weight, counts as the least steep.
QUANTILE = 0.3

#: Percent. Rounding hides less.
ROUNDING = 1.0

#: A step beyond what the guess explains is use past us when it exceeds this, in percent, and so many turns of ours.
EXCESS_PERCENT = 1.5
EXCESS_TURNS = 4

#: How many earlier windows are asked for the rate.
EARLIER_WINDOWS = 3

#: Percent. A rise smaller than this since the last observation kept is not worth keeping.
STEP = 0.5

#: Of more observations in a window some are left out: the work grows with their square.
MOST_OBSERVATIONS = 120


@dataclass(frozen=True)
class Observation:
    """What was known when upstream's percentage had risen.

    :ivar used_percent: as upstream said.
    :ivar cost_micro_usd: of all our turns in the window that had ended by then.
    :ivar cost_before_micro_usd: the same at the observation before, when the percentage had not yet risen.
    """

    used_percent: float
    cost_micro_usd: int
    cost_before_micro_usd: int


@dataclass(frozen=True)
class Shares:
    """How a window's use is made up.

    :ivar used_percent: of all, now: as last told, and what our turns since will have added.
    :ivar percent_per_usd: what a dollar of ours fills; ``None`` while nothing tells. A user's cost times this is
        their percentage.
    :ivar outside: percent that our own turns do not explain.
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
    """Share out the window that is running.

    :param observations: of this window, oldest first; none when upstream has not told of it yet.
    :param costs_micro_usd: by user, of all their turns in this window until now.
    :param earlier: the observations of windows before, newest first.
    """
    learnt = min((_rate(tuple(window)) for window in earlier[:EARLIER_WINDOWS]), default=math.inf)
    known = min(_rate(tuple(observations)), learnt)
    last = observations[-1] if observations else Observation(0.0, 0, 0)
    ours_then = min(last.used_percent, known * last.cost_micro_usd) if last.cost_micro_usd else 0.0
    rate = known
    if last.cost_micro_usd and (last.used_percent >= SHORT_RISE or learnt == math.inf):
        # Without use past us, all that is used is ours, whatever the rate; early on, rounding weighs too much.
        rate = ours_then / last.cost_micro_usd
    if rate == math.inf:
        return Shares(last.used_percent, None, last.used_percent, dict.fromkeys(costs_micro_usd, 0.0))
    outside = last.used_percent - ours_then
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
    """Give the rate that one window tells, in percent per micro-dollar; infinity where it tells none."""
    kept = observations[:: len(observations) // MOST_OBSERVATIONS + 1]
    costs = [0, *(observation.cost_micro_usd for observation in kept)]
    levels = [0.0, *(float(observation.used_percent) for observation in kept)]
    guess = min(
        (rise_per_cost + ROUNDING / cost for rise_per_cost, cost in _slopes(levels, costs, SHORT_RISE)), default=0
    )
    if not guess:
        return (levels[-1] + ROUNDING) / costs[-1] if costs[-1] else math.inf
    levels = _without_excess(levels, costs, guess, _turn_percent(kept, guess))
    for least in (LONG_RISE, LONG_RISE / 2, SHORT_RISE, 0.0):
        slopes = _slopes(levels, costs, least)
        if slopes:
            return _quantile(slopes, QUANTILE)
    return guess


def _turn_percent(observations: Sequence[Observation], rate: float) -> float:
    """Give what is used between one observation, kept or not, and the next: a turn, or some that run side by side."""
    costs = sorted(observation.cost_micro_usd - observation.cost_before_micro_usd for observation in observations)
    return rate * costs[len(costs) // 2]


def _slopes(levels: Sequence[float], costs: Sequence[int], least: float) -> list[tuple[float, float]]:
    """Give rise per cost, and the cost as its weight, of all stretches that rise by ``least`` or more."""
    return [
        ((level - levels[start]) / (cost - costs[start]), float(cost - costs[start]))
        for end, (level, cost) in enumerate(zip(levels, costs, strict=True))
        for start in range(end)
        if cost > costs[start] and level - levels[start] >= least
    ]


def _without_excess(levels: Sequence[float], costs: Sequence[int], rate: float, turn_percent: float) -> list[float]:
    """Give the levels as they would be had nothing been used past us, as far as that shows."""
    allowed = EXCESS_PERCENT + EXCESS_TURNS * turn_percent
    # Whole percents show soon after they are reached, but after a leap there are parts of one more on the average.
    is_rounded = all(level.is_integer() for level in levels)
    hidden = max(ROUNDING - turn_percent, 0.0) / 2 if is_rounded else 0.0
    kept = [0.0]
    for index in range(1, len(levels)):
        rise, expected = levels[index] - levels[index - 1], rate * (costs[index] - costs[index - 1])
        kept.append(kept[-1] + (rise if rise - expected <= allowed else expected - hidden))
    return kept


def _quantile(weighted: list[tuple[float, float]], part: float) -> float:
    """Give the value below which ``part`` of the weight lies."""
    wanted = part * sum(weight for _, weight in weighted)
    ordered = iter(sorted(weighted))
    value, weight = next(ordered)
    while wanted > weight:
        wanted -= weight
        value, weight = next(ordered, (value, wanted))
    return value
