"""Shares of the subscription: three users of unequal use and an owner, on windows that fill and roll over."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.quota.shares import STEP, Observation, Shares, shares

USERS = {"alice": 0.6, "bob": 0.3, "carol": 0.1}

Rounding = Callable[[float], float]

ROUNDINGS: dict[str, Rounding] = {
    "down": math.floor,
    "to-nearest": lambda percent: math.floor(percent + 0.5),
    "thousandths": lambda percent: round(percent, 3),
}


@dataclass
class Subscription:
    """Upstream's actual window, and what the service sees of it: a percentage before each of its turns.

    :ivar rate: percent per dollar, which the service does not know.
    :ivar late: if not ``None``, upstream counts every other turn only after the next has begun, else all immediately.
    """

    rate: float
    rounding: Rounding
    percents: dict[str, float] = field(default_factory=lambda: dict.fromkeys(USERS, 0.0))
    outside: float = 0.0
    seen: list[Observation] = field(default_factory=list)
    cost_before: int = 0
    late: random.Random | None = None
    used_before: float = 0.0

    @property
    def used(self) -> float:
        return self.outside + sum(self.percents.values())

    def cost(self, user: str) -> int:
        return round(self.percents[user] / self.rate * 1e6)

    @property
    def costs(self) -> dict[str, int]:
        return {user: self.cost(user) for user in USERS}

    def turn(self, user: str, percent: float) -> None:
        """Make a turn through the service: upstream's fields come first, the cost is recorded at its end."""
        cost = sum(self.costs.values())
        is_late = self.late is not None and self.late.random() < 0.5
        shown = self.rounding(self.used_before if is_late else self.used)
        self.used_before = self.used
        if not self.seen or shown - self.seen[-1].used_percent >= STEP:
            self.seen.append(Observation(shown, cost, self.cost_before))
        self.cost_before = cost
        self.percents[user] += percent


def fill(
    subscription: Subscription,
    random_: random.Random,
    turn_percent: float,
    owner: Callable[[random.Random], float],
    check: Callable[[Subscription], None],
) -> None:
    """Use up the window, checking after each turn."""
    while True:
        subscription.outside += owner(random_)
        (user,) = random_.choices(list(USERS), list(USERS.values()))
        percent = random_.uniform(0.2, 1.8) * turn_percent
        if subscription.used + percent > 100:
            return
        subscription.turn(user, percent)
        check(subscription)


def silent(_: random.Random) -> float:
    return 0.0


def in_bursts(random_: random.Random) -> float:
    return random_.uniform(3, 12) if random_.random() < 0.01 else 0.0


def always(random_: random.Random) -> float:
    return random_.expovariate(2)


def error(subscription: Subscription, found: Shares) -> float:
    """Return the largest difference between a user's estimated percentage and the true one."""
    return max(abs(found.percents[user] - subscription.percents[user]) for user in USERS)


@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=ROUNDINGS.keys())
@pytest.mark.parametrize("turn_percent", [0.1, 0.4, 1.0])
@pytest.mark.parametrize(
    "owners",
    [
        pytest.param((silent, silent, silent), id="nobody-past-us"),
        pytest.param((in_bursts, in_bursts, in_bursts), id="owner-in-bursts"),
        pytest.param((silent, always, always), id="owner-all-the-time-after-a-quiet-window"),
    ],
)
def test_shares_three_users(
    rounding: Rounding, turn_percent: float, owners: Sequence[Callable[[random.Random], float]]
) -> None:
    """Each user's percentage is correct within one point, in every window, even with use outside by the owner.

    In the first window this holds once our own turns have used a quarter of it; before that too little is known.
    """
    random_ = random.Random(1)
    earlier: list[list[Observation]] = []
    errors: list[float] = []

    def check(now: Subscription) -> None:
        is_settled = earlier or sum(now.percents.values()) > 25
        if is_settled and random_.random() < turn_percent / 4:
            errors.append(error(now, shares(now.seen, now.costs, earlier)))

    for owner in owners:
        subscription = Subscription(3.0, rounding)
        fill(subscription, random_, turn_percent, owner, check)
        earlier.insert(0, subscription.seen)
    assert len(errors) > 20
    assert max(errors) < 1.0


@pytest.mark.parametrize(("owner", "most"), [(silent, 1.0), (in_bursts, 3.0)], ids=["nobody-past-us", "bursts"])
def test_shares_counted_late(owner: Callable[[random.Random], float], most: float) -> None:
    """If upstream counts every other turn only after the next has begun, percentages stay near the truth."""
    random_ = random.Random(5)
    earlier: list[list[Observation]] = []
    errors: list[float] = []

    def check(now: Subscription) -> None:
        if sum(now.percents.values()) > 25 and random_.random() < 0.2:
            errors.append(error(now, shares(now.seen, now.costs, earlier)))

    for _ in range(2):
        subscription = Subscription(3.0, math.floor, late=random_)
        fill(subscription, random_, 0.4, owner, check)
        earlier.insert(0, subscription.seen)
    assert len(errors) > 20
    assert max(errors) < most


def test_shares_before_any_turn() -> None:
    """Use of the subscription before our first turn is outside use."""
    found = shares([Observation(37.0, 0, 0)], {})
    assert found == Shares(37.0, None, 37.0, {})


def test_shares_without_observation() -> None:
    """Until upstream reports its windows, nobody is charged."""
    assert shares([], {"alice": 5_000_000}) == Shares(0.0, None, 0.0, {"alice": 0.0})


def test_shares_new_window() -> None:
    """In a window that upstream has not reported yet, the rate of an earlier one is used."""
    earlier = [Observation(float(percent), percent * 500_000, (percent - 1) * 500_000) for percent in range(1, 60)]
    found = shares([], {"alice": 5_000_000}, [earlier])
    assert found.percents["alice"] == pytest.approx(10, abs=0.4)
    assert found.outside == 0


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 10**8)), max_size=30),
    st.dictionaries(st.sampled_from(["alice", "bob"]), st.integers(0, 10**9)),
)
def test_shares_add_up(steps: list[tuple[float, int]], costs: dict[str, int]) -> None:
    """With any observations no share is negative, and shares and outside use make up the total."""
    observations = []
    percent, cost = 0.0, 0
    for rise, more in steps:
        observations.append(Observation(percent := percent + rise, cost + more, cost))
        cost += more
    found = shares(observations, costs)
    assert found.outside >= 0
    assert all(part >= 0 for part in found.percents.values())
    if found.percent_per_usd is not None and sum(costs.values()) > cost:
        assert found.outside + sum(found.percents.values()) == pytest.approx(found.used_percent, abs=1e-6)
