"""What a percentage of the subscription refers to: a window of one account, or those of a pool as one. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocm_wsgi.accounting.window_history import WindowState
from ocm_wsgi.quota.limits import Cycle


@dataclass(frozen=True)
class Measure:
    """What measures limits of one period.

    :ivar percent_per_usd: see ``quota.shares``; ``None`` if unknown.
    :ivar cycle: with which limits reset; ``None`` for fixed times: the accounts of a pool reset at different ones.
    """

    percent_per_usd: float | None
    cycle: Cycle | None = None


def pool_measure(weights: Mapping[str, float], states: Mapping[str, WindowState | None]) -> Measure:
    """Return the measure of a pool: what a dollar uses of all its accounts together.

    A dollar uses the less of an account, the more its plan allows. So what it uses of the smallest plan is about the
    same, whichever account it is spent on, and it uses the less of a pool, the more all of its plans allow.

    :param weights: of the plans, by account.
    :param states: of one window, by account.
    """
    rates = [
        weights[tag] * state.percent_per_usd
        for tag, state in states.items()
        if state is not None and state.percent_per_usd is not None
    ]
    return Measure(sum(rates) / len(rates) / sum(weights.values()) if rates else None)
