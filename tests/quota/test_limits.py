"""Limits as text, their windows, and what counts towards them."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.config import Limit as ConfiguredLimit
from ocm_wsgi.quota.limits import (
    LENGTHS,
    PERIODS,
    Cycle,
    Limit,
    Period,
    Totals,
    from_config,
    parse,
    period_of,
    span,
    used,
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())


@pytest.mark.parametrize(
    ("text", "limit", "canonical"),
    [
        ("30% per week", Limit(Decimal(30), "percent", "week"), "30% per week"),
        ("12.5 percent per 5 hours", Limit(Decimal("12.5"), "percent", "5h"), "12.5% per 5h"),
        ("5 USD per day", Limit(Decimal(5), "usd", "day"), "5 USD per day"),
        ("$20/month", Limit(Decimal(20), "usd", "month"), "20 USD per month"),
        ("$0.50 a day", Limit(Decimal("0.50"), "usd", "day"), "0.5 USD per day"),
        ("2M tokens per 5h", Limit(Decimal(2_000_000), "tokens", "5h"), "2M tokens per 5h"),
        ("1.5m tokens/week", Limit(Decimal(1_500_000), "tokens", "week"), "1500k tokens per week"),
        ("10_000 tokens per day", Limit(Decimal(10_000), "tokens", "day"), "10k tokens per day"),
        ("7 tokens per day", Limit(Decimal(7), "tokens", "day"), "7 tokens per day"),
        (" 100 requests each MONTH ", Limit(Decimal(100), "requests", "month"), "100 requests per month"),
        ("1k turns per 7d", Limit(Decimal(1000), "requests", "week"), "1000 requests per week"),
    ],
)
def test_parse(text: str, limit: Limit, canonical: str) -> None:
    """A limit is parsed in many spellings, and formatted in one that can be parsed again."""
    assert parse(text) == limit
    assert str(limit) == canonical
    assert parse(canonical) == limit


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a limit"),
        ("30%", "is not a limit"),
        ("per week", "is not a limit"),
        ("30 per week", "is not a limit"),
        ("30 bananas per week", "is not a limit"),
        ("$5 tokens per day", "is not a limit"),
        ("5 USD per year", "is not a limit"),
        ("-5 USD per day", "is not a limit"),
        ("5 USDper day", "is not a limit"),
        ("1e5 tokens per day", "is not a limit"),
        ("٣ USD per day", "is not a limit"),
        ("0 requests per day", "more than 0"),
        ("101% per week", "only 100 percent"),
        ("1.5 requests per day", "a whole number"),
    ],
)
def test_parse_refuses(text: str, reason: str) -> None:
    """An invalid limit is refused with a sentence that says why."""
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_from_config() -> None:
    """Each measure of a configured limit becomes a separate limit."""
    configured = ConfiguredLimit.model_validate({"per": "week", "percent": Decimal(30), "requests": 100})
    assert from_config([configured]) == (
        Limit(Decimal(100), "requests", "week"),
        Limit(Decimal(30), "percent", "week"),
    )


CYCLE = Cycle(at("2026-11-20T13:37:20"), at("2026-11-20T18:37:20"))
WEEK = Cycle(at("2026-11-18T09:00:01"), at("2026-11-25T09:00:01"))


@pytest.mark.parametrize(
    ("period", "now", "cycle", "start", "end"),
    [
        ("day", "2026-11-22T00:00:00", None, "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
        ("day", "2026-11-22T23:59:59", None, "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
        ("month", "2026-12-31T23:59:59", None, "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", None, "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("week", "2026-11-22T23:59:59", None, "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
        ("week", "2026-11-23T00:00:00", None, "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
        ("week", "2026-11-25T09:00:00", WEEK, "2026-11-18T09:00:01", "2026-11-25T09:00:01"),
        ("week", "2026-11-25T09:00:01", WEEK, "2026-11-25T09:00:01", "2026-12-02T09:00:01"),
        ("5h", "2026-11-20T13:37:20", CYCLE, "2026-11-20T13:37:20", "2026-11-20T18:37:20"),
        ("5h", "2026-11-20T18:37:19", CYCLE, "2026-11-20T13:37:20", "2026-11-20T18:37:20"),
        ("5h", "2026-11-20T18:37:20", CYCLE, "2026-11-20T18:37:20", "2026-11-20T23:37:20"),
        ("5h", "2026-11-21T04:37:19", CYCLE, "2026-11-20T23:37:20", "2026-11-21T04:37:20"),
        ("5h", "1970-01-01T04:59:59", None, "1970-01-01T00:00:00", "1970-01-01T05:00:00"),
        ("day", "2026-11-20T18:00:00", CYCLE, "2026-11-20T00:00:00", "2026-11-21T00:00:00"),
    ],
)
def test_span(period: Period, now: str, cycle: Cycle | None, start: str, end: str) -> None:
    """Windows have exact bounds; those of upstream follow its cycle."""
    found = span(period, at(now), cycle)
    assert (found.start, found.end) == (at(start), at(end))


@given(
    st.sampled_from(PERIODS),
    st.floats(0, 4e9, allow_nan=False),
    st.none()
    | st.builds(lambda start, length: Cycle(start, start + length), st.integers(0, 4 * 10**9), st.integers(1, 10**6)),
)
def test_span_contains_now(period: Period, now: float, cycle: Cycle | None) -> None:
    """Every time is in its window, and the end of a window is in the next, which begins there."""
    found = span(period, now, cycle)
    assert found.start <= now < found.end
    after = span(period, found.end, cycle)
    assert after.start >= found.end or cycle is not None
    assert after.start <= found.end < after.end


@given(st.sampled_from(["5h", "week"]), st.integers(10**9, 2 * 10**9), st.floats(0, 10**7))
def test_span_follows_cycle(period: Period, start: int, later: float) -> None:
    """If upstream's cycle is known, every window begins a whole number of lengths from it."""
    length = LENGTHS[period]
    found = span(period, start + later, Cycle(start, start + length))
    assert found.end - found.start == length
    assert (found.start - start) % length == 0


@pytest.mark.parametrize(
    ("limit", "percent_per_usd", "expected"),
    [
        ("3 requests per day", None, Decimal(3)),
        ("9 tokens per day", None, Decimal(700)),
        ("5 USD per day", None, Decimal("2.5")),
        ("30% per week", 4.0, Decimal(10)),
        ("30% per week", None, Decimal(0)),
    ],
)
def test_used(limit: str, percent_per_usd: float | None, expected: Decimal) -> None:
    """Each unit counts its own measure; a percentage is the cost times the known rate."""
    assert used(parse(limit), Totals(3, 700, 2_500_000), percent_per_usd) == expected


@pytest.mark.parametrize(
    ("minutes", "period"), [(300, "5h"), (299, "5h"), (10080, "week"), (10079, "week"), (1440, None), (0, None)]
)
def test_period_of(minutes: int, period: Period | None) -> None:
    """Upstream's windows are identified by their length."""
    assert period_of(minutes) == period
