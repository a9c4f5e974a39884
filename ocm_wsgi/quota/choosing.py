"""Chooses one of several accounts by what is left of their windows, and sums their windows up. Pure; no I/O.

An account has a window of 5 hours and one of a week, each with a cap: the percentage of it that may be used. Windows
count from 0 again once they have reset, whatever was last reported of them. What is not known counts as unused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ocm_wsgi.quota.limits import HOUR_SECONDS, LENGTHS

Strategy = Literal["least-used", "round-robin", "random", "fallback"]

#: How much more a plan allows than the smallest one. All others count 1, also those that are not known.
PLAN_WEIGHTS: Mapping[str, float] = {"pro": 10.0, "prolite": 5.0}

#: What a turn in progress is expected to use of the week of the smallest plan, in percent.
TURN_PERCENT = 0.2

_WEEK_SECONDS = LENGTHS["week"]


@dataclass(frozen=True, slots=True)
class WindowUse:
    """How much of a window is used.

    :ivar used_percent: as last reported.
    :ivar resets_at: Unix seconds; 0 if unknown.
    """

    used_percent: float
    resets_at: float = 0.0

    def used_at(self, now: float) -> float:
        """Return the percentage that is used now."""
        return 0.0 if 0 < self.resets_at <= now else self.used_percent


@dataclass(frozen=True, slots=True)
class AccountUse:
    """An account, as far as choosing depends on it.

    :ivar weight: how much its plan allows, compared with the smallest plan.
    :ivar blocked_until: Unix seconds until which it cannot be used, by its own word; infinity for an account that needs
        the owner.
    :ivar in_flight: turns in progress.
    """

    tag: str
    weight: float = 1.0
    cap_5h: float = 100.0
    cap_weekly: float = 100.0
    short: WindowUse | None = None
    week: WindowUse | None = None
    blocked_until: float = 0.0
    in_flight: int = 0

    def is_usable(self, now: float) -> bool:
        """Return whether the account may be used now."""
        if self.blocked_until > now:
            return False
        short, week = self.short, self.week
        if short is not None and short.used_percent >= self.cap_5h and not 0 < short.resets_at <= now:
            return False
        return week is None or week.used_percent < self.cap_weekly or 0 < week.resets_at <= now

    def usable_at(self, now: float) -> float:
        """Return when the account may be used again, in Unix seconds: now if it may, infinity if that is unknown."""
        resets = [
            window.resets_at or math.inf
            for window, cap in ((self.short, self.cap_5h), (self.week, self.cap_weekly))
            if window is not None and window.used_at(now) >= cap
        ]
        return max([now, self.blocked_until, *resets])

    def score(self, now: float) -> float:
        """Return how much should be used of the account: what is left of its week, sooner if that resets sooner."""
        used, resets_at = 0.0, 0.0
        if self.week is not None:
            used, resets_at = self.week.used_percent, self.week.resets_at
        in_flight = self.in_flight * TURN_PERCENT
        if resets_at <= now:
            # It is not known when the next week ends, and nothing is used of it; or no end is known at all.
            return (self.cap_weekly - (0.0 if resets_at else used)) * self.weight - in_flight
        seconds = max(resets_at - now, HOUR_SECONDS)
        return ((self.cap_weekly - used) * self.weight - in_flight) * _WEEK_SECONDS / seconds


def plan_weight(plan_type: str | None) -> float:
    """Return how much a plan allows, compared with the smallest one."""
    return PLAN_WEIGHTS.get(plan_type or "", 1.0)


def usable(accounts: Iterable[AccountUse], now: float) -> list[AccountUse]:
    """Return those that may be used now, in the same order."""
    return [account for account in accounts if account.is_usable(now)]


def pick(
    strategy: Strategy,
    accounts: Sequence[AccountUse],
    now: float,
    *,
    counter: int = 0,
    choose: Callable[[int], int] = lambda count: 0,
) -> AccountUse | None:
    """Return the account for a new conversation; ``None`` if none may be used.

    :param accounts: in the order of the configuration.
    :param counter: of earlier picks, for ``round-robin``.
    :param choose: returns a random number below another one, for ``random``.
    """
    if strategy == "round-robin":
        start = counter % len(accounts)
        accounts = [*accounts[start:], *accounts[:start]]
    candidates = usable(accounts, now)
    if not candidates:
        return None
    if strategy == "least-used":
        # The first of several equal ones, as max() returns it.
        return max(candidates, key=operator.methodcaller("score", now))
    return candidates[choose(len(candidates))] if strategy == "random" else candidates[0]


def rebalanced(current: AccountUse, accounts: Sequence[AccountUse], threshold: float, now: float) -> AccountUse | None:
    """Return the account to which the conversations of another one move, because it is used much less.

    :param current: the account that serves a conversation.
    :param threshold: in percent of the week of the smallest plan; 0 for never.
    :return: ``None`` if they stay.
    """
    best = pick("least-used", accounts, now) if threshold > 0 else None
    if best is None or best.tag == current.tag:
        return None
    difference = _used_weekly(current, now) - _used_weekly(best, now)
    return best if difference > threshold / current.weight else None


def _used_weekly(account: AccountUse, now: float) -> float:
    return 0.0 if account.week is None else account.week.used_at(now)


@dataclass(frozen=True)
class Figures:
    """How much of several accounts together is used, as if they were one.

    :ivar weight: of all accounts that are known.
    :ivar short: ``None`` if no account has reported such a window.
    """

    weight: float
    short: WindowUse | None
    week: WindowUse | None


def figures(accounts: Iterable[AccountUse], now: float) -> Figures:
    """Return the windows of several accounts as one.

    What may not be used, beyond an account's cap, counts as used. Accounts that have reported nothing are left out, and
    a reset is the mean of those that are ahead.
    """
    known = [account for account in accounts if account.short is not None or account.week is not None]
    return Figures(
        sum(account.weight for account in known),
        _together([(account, account.short, account.cap_5h) for account in known], now),
        _together([(account, account.week, account.cap_weekly) for account in known], now),
    )


def _together(windows: Sequence[tuple[AccountUse, WindowUse | None, float]], now: float) -> WindowUse | None:
    found = [(account.weight, window, cap) for account, window, cap in windows if window is not None]
    if not found:
        return None
    weight = sum(each for each, _, _ in found)
    left = sum(max(cap - window.used_at(now), 0.0) * each for each, window, cap in found) / weight
    ahead = [(each, window.resets_at) for each, window, _ in found if window.resets_at > now]
    total = sum(each for each, _ in ahead)
    resets_at = sum(each * at for each, at in ahead) / total if ahead else 0.0
    return WindowUse(100.0 - left, resets_at)


def usable_again_at(accounts: Iterable[AccountUse], now: float) -> float:
    """Return when the first of some accounts may be used again, in Unix seconds; infinity if that is unknown."""
    return min((account.usable_at(now) for account in accounts), default=math.inf)
