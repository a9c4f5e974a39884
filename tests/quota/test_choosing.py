"""Choosing among accounts: the reference's rules, over scripted percentages, resets and plans."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.quota.choosing import (
    AccountUse,
    Strategy,
    WindowUse,
    figures,
    pick,
    plan_weight,
    rebalanced,
    usable_again_at,
)

NOW = 1_773_500_000.0
HOUR = 3600.0


def account(tag: str, used_5h: float | None = 0, used_weekly: float | None = 0, **options: Any) -> AccountUse:
    """Return an account; ``resets`` are the hours until its two windows reset."""
    resets_5h, resets_week = options.pop("resets", (2, 84))
    short = None if used_5h is None else WindowUse(used_5h, NOW + resets_5h * HOUR)
    week = None if used_weekly is None else WindowUse(used_weekly, NOW + resets_week * HOUR)
    return AccountUse(tag, **{"cap_5h": 99, "cap_weekly": 99, "short": short, "week": week, **options})


# id: (accounts, the one with the most to use)
LEAST_USED: dict[str, tuple[list[AccountUse], str | None]] = {
    "less of the week": ([account("a", 0, 50), account("b", 0, 49)], "b"),
    "the first at a tie": ([account("a", 0, 50), account("b", 0, 50)], "a"),
    "the 5 hours do not matter": ([account("a", 90, 10), account("b", 0, 11)], "a"),
    "unless they are used up": ([account("a", 99, 10), account("b", 0, 11)], "b"),
    "nor is the week used up": ([account("a", 0, 99), account("b", 98, 98)], "b"),
    "a cap makes a week smaller": ([account("a", 0, 10, cap_weekly=50), account("b", 0, 58)], "b"),
    "a pro plan counts ten times": ([account("a", 0, 0), account("b", 0, 89, weight=10)], "b"),
    "but not what is used of it": ([account("a", 0, 0), account("b", 0, 90, weight=10)], "a"),
    "a sooner reset": ([account("a", 0, 50, resets=(2, 100)), account("b", 0, 70, resets=(2, 50))], "b"),
    "an hour at least": ([account("a", 0, 98, resets=(2, 0.01)), account("b", 0, 98, resets=(2, 1))], "a"),
    "a reset that has passed": ([account("a", 0, 10), account("b", 0, 98.5, resets=(2, -1))], "a"),
    "makes a week free": ([account("a", 0, 60, resets=(2, 168)), account("b", 0, 100, resets=(2, -1))], "b"),
    "also for the 5 hours": ([account("a", 100, 0, resets=(-1, 84))], "a"),
    "nothing known is unused": ([account("a", 0, 1, resets=(2, 168)), account("b", None, None)], "b"),
    "blocked": ([account("a", blocked_until=NOW + 1), account("b", 0, 90)], "b"),
    "blocked until now": ([account("a", blocked_until=NOW), account("b", 0, 90)], "a"),
    "signed out": ([account("a", blocked_until=math.inf)], None),
    "all used up": ([account("a", 99, 0), account("b", 0, 99)], None),
    "turns in progress": ([account("a", 0, 50, in_flight=1), account("b", 0, 50)], "b"),
    "count less on a large plan": (
        [account("a", 0, 50, weight=10, in_flight=40), account("b", 0, 50, weight=1)],
        "a",
    ),
}


@pytest.mark.parametrize(("accounts", "picked"), LEAST_USED.values(), ids=LEAST_USED.keys())
def test_least_used(accounts: list[AccountUse], picked: str | None) -> None:
    """The score of the reference, with its faults corrected."""
    found = pick("least-used", accounts, NOW)
    assert (found and found.tag) == picked


def sequence(strategy: Strategy, accounts: list[AccountUse], count: int) -> str:
    """Return which accounts are picked one after the other."""
    picks = [pick(strategy, accounts, NOW, counter=counter) for counter in range(count)]
    return "".join(found.tag if found else "-" for found in picks)


A, B, C = (account(tag) for tag in "abc")
B_FULL = replace(B, blocked_until=NOW + 60)


@pytest.mark.parametrize(
    ("strategy", "accounts", "expected"),
    [
        ("round-robin", [A, B, C], "abcabca"),
        # The counter goes on, whoever is skipped.
        ("round-robin", [A, B_FULL, C], "accacca"),
        ("round-robin", [B_FULL], "-------"),
        ("fallback", [A, B, C], "aaaaaaa"),
        ("fallback", [B_FULL, C, A], "ccccccc"),
    ],
)
def test_sequences(strategy: Strategy, accounts: list[AccountUse], expected: str) -> None:
    """Of a counter, and of an order."""
    assert sequence(strategy, accounts, len(expected)) == expected


def test_random_is_uniform_among_those_that_may_be_used() -> None:
    """Whatever is used of them."""
    source = random.Random(7)
    accounts = [A, B_FULL, replace(C, week=WindowUse(98, NOW + HOUR))]
    picks = [pick("random", accounts, NOW, choose=source.randrange) for _ in range(2000)]
    tags = [found.tag for found in picks if found is not None]
    assert len(tags) == 2000
    assert set(tags) == {"a", "c"}
    assert 900 < tags.count("a") < 1100


def test_least_used_uses_accounts_up_evenly() -> None:
    """Each pick uses a percent of a small plan: at the end all are at their caps, and only then nothing is picked."""
    state = {"a": account("a", 0, 40), "b": account("b", 0, 0), "c": account("c", 0, 80, weight=10)}
    picks = []
    while (found := pick("least-used", list(state.values()), NOW)) is not None:
        picks.append(found.tag)
        assert found.week is not None
        used = WindowUse(found.week.used_percent + 1 / found.weight, found.week.resets_at)
        state[found.tag] = replace(found, week=used)
    assert picks[:5] == ["c"] * 5
    assert (picks.count("a"), picks.count("b")) == (59, 99)
    assert 190 <= picks.count("c") <= 191


@pytest.mark.parametrize(
    ("plan", "weight"),
    [("pro", 10), ("prolite", 5), ("plus", 1), ("team", 1), ("business", 1), ("free", 1), ("new", 1), (None, 1)],
)
def test_plan_weights(plan: str | None, weight: float) -> None:
    """As in the reference and its fork."""
    assert plan_weight(plan) == weight


@pytest.mark.parametrize(
    ("current", "best", "threshold", "moves"),
    [
        (30, 10, 0, False),
        (30, 10, 20, False),
        (30.1, 10, 20, True),
        (10, 30, 5, False),
    ],
)
def test_rebalancing(current: float, best: float, threshold: float, moves: bool) -> None:
    """Beyond the threshold, and never to an account that is used more."""
    accounts = [account("a", 0, current), account("b", 0, best)]
    found = rebalanced(accounts[0], accounts, threshold, NOW)
    assert (found is not None) == moves


def test_rebalancing_is_sooner_for_a_large_plan() -> None:
    """The threshold is divided by the weight of the plan."""
    accounts = [account("a", 0, 12, weight=10), account("b", 0, 0, weight=10)]
    assert rebalanced(accounts[0], accounts, 100, NOW) is not None
    assert rebalanced(replace(accounts[0], weight=1), [*accounts[1:]], 100, NOW) is None


# id: (accounts, used of 5 hours, used of the week, weight)
FIGURES: dict[str, tuple[list[AccountUse], float | None, float | None, float]] = {
    "one": ([account("a", 12.5, 40, cap_5h=100, cap_weekly=100)], 12.5, 40, 1),
    "a reserve is used": ([account("a", 0, 0, cap_5h=80, cap_weekly=99)], 20, 1, 1),
    "beyond the cap": ([account("a", 90, 0, cap_5h=80, cap_weekly=100)], 100, 0, 1),
    "two": (
        [account("a", 10, 20, cap_5h=100, cap_weekly=100), account("b", 50, 0, cap_5h=100, cap_weekly=100)],
        30,
        10,
        2,
    ),
    "by weight": (
        [account("a", 10, 20, cap_5h=100, cap_weekly=100, weight=10), account("b", 54, 31, cap_5h=100, cap_weekly=100)],
        14,
        21,
        11,
    ),
    "nothing known is left out": (
        [account("a", 10, 20, cap_5h=100, cap_weekly=100), account("b", None, None, weight=10)],
        10,
        20,
        1,
    ),
    "a plan without 5 hours": (
        [account("a", 10, 20, cap_5h=100, cap_weekly=100), account("b", None, 40, cap_5h=100, cap_weekly=100)],
        10,
        30,
        2,
    ),
    "a window that has reset": ([account("a", 90, 40, cap_5h=100, cap_weekly=100, resets=(-1, 84))], 0, 40, 1),
    "none": ([], None, None, 0),
}


@pytest.mark.parametrize(("accounts", "short", "week", "weight"), FIGURES.values(), ids=FIGURES.keys())
def test_figures(accounts: list[AccountUse], short: float | None, week: float | None, weight: float) -> None:
    """To two decimals."""
    found = figures(accounts, NOW)
    assert found.weight == weight
    assert (found.short and round(found.short.used_percent, 2)) == short
    assert (found.week and round(found.week.used_percent, 2)) == week


def test_the_reset_of_several_is_their_mean_by_weight() -> None:
    """Of those that are ahead."""
    accounts = [
        account("a", 1, 1, resets=(1, 10)),
        account("b", 1, 1, resets=(4, 50), weight=3),
        account("c", 1, 1, resets=(-1, -1)),
    ]
    found = figures(accounts, NOW)
    assert found.short is not None
    assert found.week is not None
    assert found.short.resets_at == NOW + (1 + 4 * 3) / 4 * HOUR
    assert found.week.resets_at == NOW + (10 + 50 * 3) / 4 * HOUR


@pytest.mark.parametrize(
    ("accounts", "hours"),
    [
        ([account("a", 99, 10, resets=(2, 84)), account("b", 10, 99, resets=(2, 10))], 2),
        ([account("a", 99, 99, resets=(2, 84))], 84),
        ([account("a", 99, 10, blocked_until=NOW + 3 * HOUR)], 3),
        ([account("a", 99, 10), account("b")], 0),
        ([account("a", blocked_until=math.inf)], math.inf),
        ([account("a", short=WindowUse(99))], math.inf),
        ([], math.inf),
    ],
)
def test_when_the_first_may_be_used_again(accounts: list[AccountUse], hours: float) -> None:
    """The earliest of the accounts, and of each the last of what keeps it."""
    assert usable_again_at(accounts, NOW) == NOW + hours * HOUR


percents = st.floats(0, 120)
ACCOUNTS = st.lists(
    st.builds(
        account,
        st.sampled_from("abcdef"),
        percents,
        percents,
        resets=st.tuples(st.floats(-5, 5), st.floats(-100, 168)),
        cap_5h=st.integers(1, 100),
        cap_weekly=st.integers(1, 100),
        weight=st.sampled_from([1.0, 5.0, 10.0]),
        blocked_until=st.sampled_from([0.0, NOW - 1, NOW + 1, math.inf]),
        in_flight=st.integers(0, 50),
    ),
    min_size=1,
    max_size=6,
)


@given(ACCOUNTS, st.sampled_from(["least-used", "round-robin", "random", "fallback"]), st.integers(0, 20))
def test_what_is_picked_may_be_used(accounts: list[AccountUse], strategy: Strategy, counter: int) -> None:
    """And nothing is picked only if nothing may be; then the time at which that changes is ahead, and true."""
    found = pick(strategy, accounts, NOW, counter=counter, choose=lambda count: counter % count)
    can_be_used = [each for each in accounts if each.is_usable(NOW)]
    assert (found in can_be_used) if can_be_used else found is None
    again_at = usable_again_at(accounts, NOW)
    assert (again_at == NOW) == bool(can_be_used)
    if not can_be_used and again_at < math.inf:
        assert pick(strategy, accounts, again_at + 0.001, counter=counter) is not None
        assert pick(strategy, accounts, again_at - 0.001, counter=counter) is None


@given(ACCOUNTS)
def test_figures_are_percentages(accounts: list[AccountUse]) -> None:
    """Of all accounts together, in any order."""
    found = figures(accounts, NOW)
    for window in (found.short, found.week):
        assert window is not None
        assert -1e-9 <= window.used_percent <= 100 + 1e-9
    for other in itertools.islice(itertools.permutations(accounts), 6):
        again = figures(other, NOW)
        assert again.week is not None
        assert found.week is not None
        assert math.isclose(again.week.used_percent, found.week.used_percent, abs_tol=1e-6)
