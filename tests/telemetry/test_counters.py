"""The gauge of open streams, which is not set for each request."""

from __future__ import annotations

import pytest

from ocm_wsgi.telemetry import counters
from ocm_wsgi.telemetry.logs import RequestLine

LINE = RequestLine("alice", "GET", "/v1/models", 200, 0, 1.0)


def shown() -> float:
    """Return the gauge, as it is without a scrape."""
    (family,) = counters._OPEN_STREAMS.collect()
    (sample,) = family.samples
    return float(sample.value)


def scraped() -> float:
    """Return the gauge in a scrape."""
    families = {family.name: family for family in counters.registry().collect()}
    (sample,) = families["ocm_open_streams"].samples
    return float(sample.value)


def test_open_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start shows at once if none has shown lately, others at a scrape; short requests need not show."""
    before = scraped()
    monkeypatch.setattr(counters._Starts, "show_at", 0.0)
    monkeypatch.setattr(counters, "SHOW_SECONDS", 1e9)
    counters.count_request_start()
    assert shown() == before + 1
    for _ in range(3):
        counters.count_request_start()
    assert shown() == before + 1
    counters.count_request_end(LINE)
    assert shown() == before + 1
    assert scraped() == before + 3
    for _ in range(3):
        counters.count_request_end(LINE)
    assert shown() == scraped() == before
