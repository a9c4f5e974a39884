"""Reading dates and times."""

from __future__ import annotations

import pytest

from ocm_wsgi.config import times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-02T01:00", 90000),
        ("1970-01-02T01:00:00Z", 90000),
        ("1970-01-02T01:00:00z", 90000),
        ("1970-01-02T01:00:00+01:00", 86400),
    ],
)
def test_parse_utc(text: str, seconds: float) -> None:
    """A time without a zone is in UTC."""
    assert times.parse_utc(text) == seconds


def test_parse_keeps_a_missing_zone() -> None:
    """Callers that require a zone can tell whether there is one."""
    assert times.parse("2027-01-31T18:00:00").tzinfo is None
    assert times.parse("2027-01-31T18:00:00Z").tzinfo is not None


def test_parse_day() -> None:
    """A day starts at midnight in UTC; anything else is refused."""
    assert times.parse_day("1970-01-02") == 86400
    for text in ("", "1970-01-02T01:00", "1970-13-01", "tomorrow"):
        with pytest.raises(ValueError, match=r"time data|unconverted"):
            times.parse_day(text)
