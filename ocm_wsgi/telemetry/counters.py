"""Prometheus metrics that the processes count themselves, in the files that they share (``multiprocess``).

They survive the death of a worker and start from zero when the service starts. Metrics that the state database knows
are in ``reporting.prometheus``.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.telemetry import multiprocess
from ocm_wsgi.telemetry.logs import RequestLine

_PROCESS_REGISTRY = CollectorRegistry()

_OPEN_STREAMS = Gauge(
    "ocm_open_streams",
    "API requests in progress.",
    multiprocess_mode="livesum",
    registry=_PROCESS_REGISTRY,
)
_RESPONSES = Counter(
    "ocm_responses_total",
    "Responses to API requests, by HTTP status.",
    ["status"],
    registry=_PROCESS_REGISTRY,
)
_FIRST_BYTE = Histogram(
    "ocm_turn_first_byte_seconds",
    "Time from a turn's request to the first byte of upstream's response.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
    registry=_PROCESS_REGISTRY,
)
_DURATION = Histogram(
    "ocm_turn_duration_seconds",
    "Time from a turn's request to its end, by how it ended.",
    ["status"],
    buckets=(0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
    registry=_PROCESS_REGISTRY,
)
_REFRESHES = Counter(
    "ocm_credential_refreshes_total",
    "Attempts to refresh the credential, by result: refreshed, changed (by another program), refused, failed.",
    ["result"],
    registry=_PROCESS_REGISTRY,
)
_BACKLOG = Gauge(
    "ocm_ledger_backlog_records",
    "Turn records not yet in the state database, by where they wait: on disk (spool) or in memory.",
    ["place"],
    multiprocess_mode="livesum",
    registry=_PROCESS_REGISTRY,
)
_FAILING = Gauge(
    "ocm_ledger_failing_workers",
    "Workers that currently cannot write to the state database.",
    multiprocess_mode="livesum",
    registry=_PROCESS_REGISTRY,
)


# Looking a child up costs as much as counting.
_responses = functools.cache(_RESPONSES.labels)
_duration = functools.cache(_DURATION.labels)

#: How often the gauge of open streams is set while requests start, at least, in seconds.
SHOW_SECONDS = 1.0


class _Starts:
    """The requests that have started and are not in the gauge yet, which takes longer to set than all else here."""

    unshown: deque[None] = deque()  # noqa: RUF012 - never instantiated. Any thread may change it without a lock.
    show_at = 0.0


def count_request_start() -> None:
    """Count an API request that has started, once for each ``count_request_end``.

    It shows in the gauge now, or if others have shown within ``SHOW_SECONDS``, at :func:`show_request_starts`.
    """
    _Starts.unshown.append(None)
    now = time.monotonic()
    if now >= _Starts.show_at:
        _Starts.show_at = now + SHOW_SECONDS
        show_request_starts()


def show_request_starts() -> None:
    """Show the requests that have started."""
    if starts := sum(1 for _ in iter(_take_start, False)):
        _OPEN_STREAMS.inc(starts)


def _take_start() -> bool:
    """Take one of the requests that are not shown; return false if there is none."""
    try:
        _Starts.unshown.pop()
    except IndexError:
        return False
    return True


def count_request_end(line: RequestLine) -> None:
    """Count an API request that has ended, and its turn; once for each ``count_request_start``."""
    if not _take_start():  # A short one is not worth showing.
        _OPEN_STREAMS.dec()
    _responses(str(line.status)).inc()
    if line.turn is not None:
        count_turn(line.turn)


def count_turn(turn: Turn) -> None:
    """Count a turn that has ended. ``count_request_end`` does so for the one turn of a request."""
    _FIRST_BYTE.observe(turn.first_byte_ms / 1000)
    _duration(turn.status).observe(turn.duration_ms / 1000)


def count_refresh(result: str) -> None:
    """Count an attempt to refresh the credential."""
    _REFRESHES.labels(result).inc()


def show_refresh_results(results: Iterable[str]) -> None:
    """Show each result as 0 from the start, so that the first failure is an increase."""
    for result in results:
        _REFRESHES.labels(result)


def set_ledger_backlog(*, memory: int, spool: int, is_database_failing: bool) -> None:
    """Set how many of this process's turn records are not in the state database yet."""
    _BACKLOG.labels("memory").set(memory)
    _BACKLOG.labels("spool").set(spool)
    _FAILING.set(is_database_failing)


def registry(*collectors: Collector) -> CollectorRegistry:
    """Return the metrics of a scrape: the counts of all processes, including dead ones, and those of collectors."""
    show_request_starts()
    scraped = CollectorRegistry()
    if multiprocess.VARIABLE in os.environ:
        multiprocess.ensure()
        MultiProcessCollector(scraped)  # type: ignore[no-untyped-call]  # it has no types
    else:
        scraped.register(_PROCESS_REGISTRY)
    for collector in collectors:
        scraped.register(collector)
    return scraped
