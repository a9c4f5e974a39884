"""sing-box's usage file, field by field."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.accounting.sing_box_usages import Entry, Statistics, combination, merged, parse, render, week_key

WEEK = 1_772_442_000  # 2026-03-02 09:00:00 UTC
UPDATED_AT = datetime(2026, 3, 4, 5, 6, 7, 800_000, timezone(timedelta(hours=2)))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test set the local time zone with ``TZ``."""
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def entry(cost: int, user: str, *, week: int | None = WEEK, tier: str = "default") -> Entry:
    """Return an entry of one user."""
    statistics = Statistics(1, 100, 10, 40, cost)
    return Entry(combination("gpt-5", tier, 0, week), statistics, {user: statistics} if user else {})


def test_render(zone: pytest.MonkeyPatch) -> None:
    """The whole file is as sing-box writes it: names, nesting, omitted fields, rounding, order and indentation."""
    zone.setenv("TZ", "UTC0")
    time.tzset()
    sums = {"request_count": 1, "input_tokens": 100, "output_tokens": 10, "cached_tokens": 40}
    key = "2026-03-02 09:00:00 UTC+0"
    expected = {
        "last_updated": "2026-03-04T05:06:07.800000+02:00",
        "costs": {
            "total_usd": 2.37,
            "by_user": {"alice": 1.23, "bob": 1},
            "by_week": {key: 1.37},
            "by_user_and_week": {"alice": {key: 1.23}},
        },
        "combinations": [
            {
                "model": "gpt-5",
                "service_tier": "default",
                "context_window": 272_000,
                "week_start_unix": WEEK,
                "total": {**{name: 2 * value for name, value in sums.items()}, "cost_usd": 1.37},
                "by_user": {"alice": {**sums, "cost_usd": 1.23}},
            },
            {
                "model": "gpt-5",
                "service_tier": "priority",
                "context_window": 272_000,
                "total": {**sums, "cost_usd": 1},
                "by_user": {"bob": {**sums, "cost_usd": 1}},
            },
        ],
    }
    entries = merged(
        [entry(1_225_000, "alice"), entry(140_000, ""), entry(1_000_000, "bob", week=None, tier="Priority")]
    )
    assert render(entries, UPDATED_AT) == json.dumps(expected, indent=2)


def test_render_nothing() -> None:
    """Without turns, collections are empty, and weeks are omitted."""
    document = json.loads(render([], UPDATED_AT.astimezone(timezone.utc)))
    assert document == {
        "last_updated": "2026-03-04T03:06:07.800000Z",
        "costs": {"total_usd": 0, "by_user": {}},
        "combinations": [],
    }


@pytest.mark.parametrize(
    ("zone_name", "key"),
    [
        ("UTC0", "2026-03-02 09:00:00 UTC+0"),
        ("IST-5:30", "2026-03-02 14:30:00 UTC+5:30"),
        ("CST-8", "2026-03-02 17:00:00 UTC+8"),
        ("NST3:30", "2026-03-02 05:30:00 UTC-3:30"),
    ],
)
def test_week_key(zone: pytest.MonkeyPatch, zone_name: str, key: str) -> None:
    """A week is named by its start in local time, with the offset as sing-box writes it."""
    zone.setenv("TZ", zone_name)
    time.tzset()
    assert week_key(WEEK) == key


@pytest.mark.parametrize(
    ("tier", "window", "week", "expected"),
    [
        ("", 0, None, ("default", 272_000, 0)),
        ("auto", -1, -5, ("default", 272_000, 0)),
        ("scale", 272_000, 5, ("default", 272_000, 5)),
        (" Flex ", 1_050_000, 5, ("flex", 1_050_000, 5)),
    ],
)
def test_combination(tier: str, window: int, week: int | None, expected: tuple[str, int, int]) -> None:
    """Tiers and windows are named as in sing-box."""
    found = combination("gpt-5", tier, window, week)
    assert (found.service_tier, found.context_window, found.week_start) == expected


SUMS: dict[str, Any] = {"request_count": 2, "prompt_tokens": 30, "completion_tokens": 4, "cached_tokens": 5}


@pytest.mark.parametrize(
    ("combinations", "expected"),
    [
        pytest.param(None, [], id="null"),
        pytest.param([{"model": "o3"}], [Entry(combination("o3", "", 0, 0), Statistics(), {})], id="bare"),
        pytest.param(
            [{"model": "o3", "total": SUMS, "by_user": {"alice": {**SUMS, "input_tokens": 31, "cost_usd": 0.29}}}],
            [
                Entry(
                    combination("o3", "default", 0, 0),
                    Statistics(2, 30, 4, 5),
                    {"alice": Statistics(2, 31, 4, 5, 290_000)},
                )
            ],
            id="prompt-tokens-era",
        ),
        pytest.param(
            [{"model": "o3", "total": SUMS, "by_user": None}, {"model": "o3", "service_tier": "auto", "total": SUMS}],
            [Entry(combination("o3", "default", 0, 0), Statistics(4, 60, 8, 10), {})],
            id="same-after-normalization",
        ),
    ],
)
def test_parse(combinations: object, expected: list[Entry]) -> None:
    """Files of all versions can be parsed."""
    assert parse(json.dumps({"last_updated": "2025-12-01T00:00:00Z", "combinations": combinations})) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"combinations": {}}',
        '{"combinations": [{}]}',
        '{"combinations": [{"model": "o3", "total": 5}]}',
        '{"combinations": [{"model": "o3", "by_user": []}]}',
        '{"combinations": [{"model": "o3", "service_tier": 5}]}',
        '{"combinations": [{"model": "o3", "total": {"input_tokens": "5"}}]}',
        '{"combinations": [{"model": "o3", "total": {"cost_usd": "5"}}]}',
        '{"combinations": [',
    ],
)
def test_parse_something_else(text: str) -> None:
    """Anything but a usage file is rejected."""
    with pytest.raises(ValueError, match=r"."):
        parse(text)


numbers = st.integers(0, 10**9)
statistics = st.builds(Statistics, numbers, numbers, numbers, numbers, st.integers(0, 10**9).map(lambda n: n * 10_000))
combinations = st.builds(
    combination,
    st.sampled_from(["gpt-5", "o3 <&> ü"]),
    st.sampled_from(["", "flex", "scale"]),
    st.sampled_from([0, 1_050_000]),
    st.sampled_from([None, WEEK]),
)
entries = st.builds(Entry, combinations, statistics, st.dictionaries(st.sampled_from(["alice", "bob"]), statistics))


@given(st.lists(entries))
def test_render_and_parse(found: list[Entry]) -> None:
    """A rendered file is parsed back unchanged, except for fractions of a cent."""
    assert parse(render(merged(found), UPDATED_AT)) == merged(found)
