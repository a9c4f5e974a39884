"""Rate limits from response fields and from WebSocket messages."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from ocm_wsgi.protocol.responses.rate_limits import (
    Credits,
    RateLimit,
    RateLimits,
    RateLimitWindow,
    from_fields,
    from_message,
    read_fields,
)

FIELDS = [
    ("X-Codex-Primary-Used-Percent", "12.5"),
    ("x-codex-primary-window-minutes", "300"),
    ("x-codex-primary-reset-at", "1790000000"),
    ("x-codex-secondary-used-percent", "40"),
    ("x-codex-secondary-window-minutes", "10080"),
    ("x-codex-secondary-reset-at", "1790500000"),
]
OTHER_FIELDS = [
    ("x-codex-bengalfox-secondary-used-percent", "7"),
    ("x-codex-bengalfox-secondary-window-minutes", "10080"),
    ("x-codex-bengalfox-secondary-reset-at", "1791000000"),
    ("x-codex-bengalfox-limit-name", "Spark"),
    ("x-codex-active-limit", "codex_bengalfox"),
]
WEEK_ALONE = [(name.replace("secondary", "primary").lower(), value) for name, value in FIELDS[3:]]
CODEX = RateLimit("codex", RateLimitWindow(12.5, 300, 1790000000), RateLimitWindow(40.0, 10080, 1790500000))


def test_from_fields_reads_the_subscription() -> None:
    """Both windows of the family ``codex`` are read, with names in any case."""
    limits = from_fields(FIELDS)
    assert limits == RateLimits((CODEX,))
    assert limits.own == CODEX
    assert limits.week_start == 1790500000 - 10080 * 60


def test_from_fields_discovers_other_limits() -> None:
    """Another family is found by its fields, with its name, and is not the subscription's, even if it is active."""
    limits = from_fields([*FIELDS, *OTHER_FIELDS])
    assert limits is not None
    other = RateLimit("codex-bengalfox", None, RateLimitWindow(7.0, 10080, 1791000000), "Spark")
    assert limits.limits == (CODEX, other)
    assert (limits.active, limits.own) == ("codex-bengalfox", CODEX)
    assert limits.week_start == 1790500000 - 10080 * 60


def test_from_fields_reads_credits_and_reached_type() -> None:
    """Credits, plan and the kind of limit reached are read without any window."""
    fields = {
        "x-codex-credits-has-credits": "True",
        "x-codex-credits-unlimited": "0",
        "x-codex-credits-balance": "12.50",
        "x-codex-plan-type": "plus",
        "x-codex-rate-limit-reached-type": "rate_limit_reached",
    }
    expected = RateLimits(credits=Credits(True, False, "12.50"), plan_type="plus", reached_type="rate_limit_reached")
    assert from_fields(fields.items()) == expected


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("content-type", "text/event-stream")],
        [("x-codex-primary-used-percent", "many")],
        [("x-codex-primary-used-percent", "nan")],
        [("x-codex-primary-used-percent", "-1")],
        [("x-codex-primary-window-minutes", "300")],
    ],
)
def test_from_fields_without_limits_is_none(fields: list[tuple[str, str]]) -> None:
    """Fields that are not about limits, or are malformed, have no rate limits."""
    assert from_fields(fields) is None


@pytest.mark.parametrize(("value", "number"), [("", 0), ("x", 0), ("1e300", 0), ("-5", 0), ("inf", 0), ("60.0", 60)])
def test_from_fields_malformed_integers_are_zero(value: str, number: int) -> None:
    """A window with an invalid length has length 0 and no start."""
    limits = from_fields([("x-codex-primary-used-percent", "1"), ("x-codex-primary-window-minutes", value)])
    assert limits is not None
    assert limits.own is not None
    window = limits.own.primary
    assert window == RateLimitWindow(1.0, number, 0)
    assert window.start is None


MESSAGE = {
    "type": "codex.rate_limits",
    "plan_type": "pro",
    "rate_limits": {
        "allowed": True,
        "limit_reached": False,
        "primary": {"used_percent": 42, "window_minutes": 300, "reset_at": 1790000000},
        "secondary": None,
    },
    "credits": {"has_credits": False, "unlimited": False, "balance": None},
}


@pytest.mark.parametrize("encode", [json.dumps, lambda message: json.dumps(message).encode()])
def test_from_message_reads_rate_limits(encode: object) -> None:
    """A ``codex.rate_limits`` message is read as text and as octets."""
    assert callable(encode)
    expected = RateLimits(
        (RateLimit("codex", RateLimitWindow(42.0, 300, 1790000000)),), "codex", Credits(False, False), plan_type="pro"
    )
    assert from_message(encode(MESSAGE)) == expected


def test_from_message_names_its_limit() -> None:
    """A message is about the limit that it names, and then says nothing about the subscription's."""
    message = MESSAGE | {"metered_limit_name": "codex_bengalfox", "limit_name": "Spark"}
    limits = from_message(json.dumps(message))
    assert limits is not None
    assert limits.limits == (RateLimit("codex-bengalfox", RateLimitWindow(42.0, 300, 1790000000), None, "Spark"),)
    assert (limits.own, limits.week_start) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["", "x codex.rate_limits", '["codex.rate_limits"]', '{"type":"response.created","a":"codex.rate_limits"}'],
)
def test_from_message_ignores_other_messages(text: str) -> None:
    """A message that only mentions rate limits has none."""
    assert from_message(text) is None


def test_from_message_survives_any_shape() -> None:
    """A message with unexpected types is read as far as possible."""
    message = '{"type":"codex.rate_limits","rate_limits":[1],"credits":"x","plan_type":3,"metered_limit_name":{}}'
    assert from_message(message) == RateLimits((RateLimit("codex"),), "codex")


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        pytest.param(FIELDS, 1790500000 - 604800, id="codex"),
        pytest.param([*FIELDS, *OTHER_FIELDS], 1790500000 - 604800, id="another-is-active"),
        pytest.param(OTHER_FIELDS, None, id="another-alone"),
        pytest.param(WEEK_ALONE, 1790500000 - 604800, id="in-the-first-place"),
        pytest.param(FIELDS[:3], None, id="no-week"),
        pytest.param([*FIELDS[:4], (FIELDS[4][0], "43200"), FIELDS[5]], None, id="a-month"),
        pytest.param([*FIELDS, ("x-codex-active-limit", "nobody")], 1790500000 - 604800, id="active-is-not-described"),
        pytest.param([*FIELDS, ("x-codex-active-limit", " CODEX ")], 1790500000 - 604800, id="active-is-codex"),
        pytest.param(FIELDS[:5], None, id="no-reset"),
        pytest.param([("x-codex-secondary-window-minutes", "0"), FIELDS[5]], None, id="zero-window"),
        pytest.param([FIELDS[4], FIELDS[5]], 1790500000 - 604800, id="without-a-percentage"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_week_start_follows_the_weekly_window(fields: list[tuple[str, str]], start: int | None) -> None:
    """The week starts one window length before the reset of the subscription's weekly window, if both are known."""
    assert read_fields(fields)[1] == start


@pytest.mark.parametrize(
    ("lengths", "swaps"),
    [
        ((300, 10080), False),
        ((10080, 300), True),
        ((10080, None), True),
        ((None, 300), True),
        ((300, None), False),
        ((None, 10080), False),
        ((0, 0), False),
        ((10080, 0), True),
        ((43200, None), False),
        ((None, 43200), False),
        ((43200, 10080), False),
        ((10080, 10080), False),
        ((10079, 299), True),
    ],
)
def test_windows_are_known_by_their_length(lengths: tuple[int | None, int | None], swaps: bool) -> None:
    """A week is the secondary window and 5 hours are the primary one, in fields and in messages, wherever they are."""
    found = [None if minutes is None else RateLimitWindow(5.0, minutes, 1790000000) for minutes in lengths]
    expected = RateLimit("codex", *(reversed(found) if swaps else found))
    places = dict(zip(("primary", "secondary"), found, strict=True))
    fields = [
        (f"x-codex-{place}-{name.replace('_', '-')}", str(value))
        for place, window in places.items()
        if window is not None
        for name, value in asdict(window).items()
    ]
    limits = from_fields(fields)
    assert limits is not None
    assert limits.own == expected
    windows = {place: window and asdict(window) for place, window in places.items()}
    message = from_message(json.dumps({"type": "codex.rate_limits", "rate_limits": windows}))
    assert message is not None
    assert message.own == expected


def test_updated_by_keeps_other_limits() -> None:
    """A report about one limit changes no other one; what has ended is forgotten, except of the subscription."""
    spark = RateLimit("codex-bengalfox", RateLimitWindow(7.0, 300, 2_000))
    plan = RateLimits((CODEX,), credits=Credits(True, False), plan_type="plus")
    known = plan.updated_by(RateLimits((spark,), "codex-bengalfox"), 1_000)
    assert known == RateLimits((CODEX, spark), "codex-bengalfox", Credits(True, False), "plus")
    newer = RateLimits((RateLimit("codex", RateLimitWindow(13.0, 300, 1790000000)),), plan_type="pro")
    assert known.updated_by(newer, 1_999).limits == (*newer.limits, spark)
    assert known.updated_by(newer, 2_000) == RateLimits(newer.limits, None, Credits(True, False), "pro")
    assert known.updated_by(RateLimits((), "x"), 1790000001) == RateLimits((CODEX,), "x", Credits(True, False), "plus")
    assert plan.updated_by(plan, 1_000) is plan


def test_updated_by_is_bounded() -> None:
    """However many limits upstream names, the subscription's own is remembered, and some of the others."""
    known = RateLimits((CODEX,))
    for number in range(100):
        limit = RateLimit(f"a-{number}", RateLimitWindow(7.0, 300, 1790000000))
        known = known.updated_by(RateLimits((limit,)), 1_000)
    assert known.own == CODEX
    assert len(known.limits) <= 21
