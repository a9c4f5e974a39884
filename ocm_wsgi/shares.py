"""Whose part of the subscription's window is whose, and what the owner used past us. Pure; no I/O.

Upstream says how full its window is, in percent, usually whole ones; the ledger knows what our turns cost. What is
not known is how much of the window one dollar fills. Call it the *rate*. If it were known, our part would be the
rate times our cost, and the rest is what the owner used past us (``outside``).

The owner's use only ever adds. So over any stretch of time the window rises by at least the rate times our cost in
that stretch, and each stretch bounds the rate from above. The lowest bound comes from the stretch with the least use
past us; where there is one with none, it is the rate. Stretches are taken between observations at which the
percentage had just risen: at these moments the true value is known to be the one shown, to within the turns since
the observation before, however coarsely upstream rounds. So two bounds hold for each pair of such observations:

* ``rise / (cost between, less the turns in which the last step fell)``. Tight over long stretches. Taken from
  ``MIN_RISE`` percent on, where a turn that is counted a moment late does not weigh much.
* ``(rise + 1) / cost between``: rounding hides less than one percent. Tight where single turns are large.

Bounds of windows before count too, as the rate belongs to the subscription's plan; few of them, so that a change of
plan, or one bad reading, is forgotten.

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

from ocm_wsgi.limits import MICRO

#: Percent. See the module's text.
MIN_RISE = 5.0

#: How many earlier windows are asked for the rate.
EARLIER_WINDOWS = 6

#: Percent. A rise smaller than this since the last observation kept is not worth keeping.
STEP = 0.25


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
    learnt = min((_bound(tuple(window)) for window in earlier[:EARLIER_WINDOWS]), default=math.inf)
    bound = min(_bound(tuple(observations)), learnt)
    last = observations[-1] if observations else Observation(0.0, 0, 0)
    ours_then = min(last.used_percent, bound * last.cost_micro_usd) if last.cost_micro_usd else 0.0
    rate = bound
    if last.cost_micro_usd and (last.used_percent >= MIN_RISE or learnt == math.inf):
        # What this window shows is closer than a bound, once rounding does not weigh so much any more.
        rate = ours_then / last.cost_micro_usd
    if rate == math.inf:
        return Shares(last.used_percent, None, last.used_percent, dict.fromkeys(costs_micro_usd, 0.0))
    outside = last.used_percent - ours_then
    cost = sum(costs_micro_usd.values())
    expected = last.used_percent + rate * max(cost - last.cost_micro_usd, 0)
    used_percent = min(expected, max(100.0, last.used_percent))
    if cost:
        rate = (used_percent - outside) / cost
    return Shares(used_percent, rate * MICRO, outside, {user: rate * part for user, part in costs_micro_usd.items()})


@functools.lru_cache(maxsize=256)
def _bound(observations: tuple[Observation, ...]) -> float:
    """Give the lowest upper bound of the rate, in percent per micro-dollar, that one window gives; else infinity."""
    points = [(0.0, 0, 0), *((o.used_percent, o.cost_micro_usd, o.cost_before_micro_usd) for o in observations)]
    lowest = math.inf
    for index, (used_percent, cost, cost_before) in enumerate(points):
        for earlier_percent, earlier_cost, _ in points[:index]:
            rise = used_percent - earlier_percent
            if cost > earlier_cost:
                lowest = min(lowest, (rise + 1) / (cost - earlier_cost))
            if rise >= MIN_RISE and cost_before > earlier_cost:
                lowest = min(lowest, rise / (cost_before - earlier_cost))
    return lowest
