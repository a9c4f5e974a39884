"""What Prometheus is told.

Two kinds. What the state database knows is read from it at each scrape: turns, tokens, cost, rate limits. It is exact,
whichever process is asked, and survives every process. What only the processes know they count in files that they
share (``metricfiles``): it survives the death of a worker, and begins anew with the service.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.ledger import Ledger, Quota
from ocm_wsgi.accounting.queries import Sum
from ocm_wsgi.accounting.turn_accounting import CREDENTIAL
from ocm_wsgi.credentials import CredentialSource, Refresher
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.refresh_protocol import RefreshOutcome, Result
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.oauth.refresh import RefreshReason
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.reporting.status import rate_limits_of
from ocm_wsgi.telemetry import multiprocess
from ocm_wsgi.telemetry.logs import RequestLine

if TYPE_CHECKING:
    from ocm_wsgi.service import Service

#: How often a process says which of its records are not in the database yet.
SAMPLE_SECONDS = 5.0

#: Stands for the model of turns of which upstream did not say what they used: clients can make up such names.
UNKNOWN_MODEL = "unknown"

#: What the processes count themselves.
PROCESSES = CollectorRegistry()

_OPEN_STREAMS = Gauge(
    "ocm_open_streams",
    "Requests to the API under way.",
    multiprocess_mode="livesum",
    registry=PROCESSES,
)
_RESPONSES = Counter(
    "ocm_responses_total",
    "Responses to requests to the API, by HTTP status.",
    ["status"],
    registry=PROCESSES,
)
_FIRST_BYTE = Histogram(
    "ocm_turn_first_byte_seconds",
    "From a turn's request to the first byte of upstream's response.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
    registry=PROCESSES,
)
_DURATION = Histogram(
    "ocm_turn_duration_seconds",
    "From a turn's request to its end, by how it ended.",
    ["status"],
    buckets=(0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
    registry=PROCESSES,
)
_REFRESHES = Counter(
    "ocm_credential_refreshes_total",
    "Attempts to renew the credential, by result: refreshed, changed (another program did it), refused, failed.",
    ["result"],
    registry=PROCESSES,
)
_BACKLOG = Gauge(
    "ocm_ledger_backlog_records",
    "Records of turns that are not in the database yet, by where they wait: on disk (spool) or in memory.",
    ["place"],
    multiprocess_mode="livesum",
    registry=PROCESSES,
)
_FAILING = Gauge(
    "ocm_ledger_failing_workers",
    "Workers whose records the database does not take.",
    multiprocess_mode="livesum",
    registry=PROCESSES,
)


class MeteredRefresher(Refresher):
    """Counts what becomes of renewals."""

    def refresh(
        self, credential_path: Path, *, state_path: Path, document: Document, reason: RefreshReason
    ) -> RefreshOutcome:
        """As in ``Refresher``."""
        outcome = super().refresh(credential_path, state_path=state_path, document=document, reason=reason)
        _REFRESHES.labels(outcome.result.value).inc()
        return outcome


def begin() -> None:
    """Count a request to the API that has begun."""
    _OPEN_STREAMS.inc()


def end(line: RequestLine) -> None:
    """Count a request to the API that has ended; once for each that has begun."""
    _OPEN_STREAMS.dec()
    _RESPONSES.labels(str(line.status)).inc()
    if line.turn is not None:
        count_turn(line.turn)


def count_turn(turn: Turn) -> None:
    """Count a turn that has ended. ``end`` does it for the one turn of a request."""
    _FIRST_BYTE.observe(turn.first_byte_ms / 1000)
    _DURATION.labels(turn.status).observe(turn.duration_ms / 1000)


def sample(ledger: Ledger) -> None:
    """Say what of this process's records is not in the database yet."""
    backlog = ledger.backlog()
    _BACKLOG.labels("memory").set(backlog.memory)
    _BACKLOG.labels("spool").set(backlog.spool)
    _FAILING.set(backlog.is_database_failing)


def start_sampling(ledger: Ledger) -> None:
    """Call ``sample`` again and again, in a thread that ends with the process."""
    for result in Result:
        # Shown as 0 from the start, so that the first failure is a rise.
        _REFRESHES.labels(result.value)
    threading.Thread(target=_keep_sampling, args=(ledger,), name="ocm-metrics", daemon=True).start()


def _keep_sampling(ledger: Ledger) -> None:
    pause = threading.Event()
    while True:
        sample(ledger)
        pause.wait(SAMPLE_SECONDS)


def registry(collector: Collector) -> CollectorRegistry:
    """Give what a scrape shows: the counts of all processes, those of the dead included, and the collector's."""
    whole = CollectorRegistry()
    if multiprocess.VARIABLE in os.environ:
        multiprocess.ensure()
        MultiProcessCollector(whole)  # type: ignore[no-untyped-call]  # it has no types
    else:
        whole.register(PROCESSES)
    whole.register(collector)
    return whole


class StateCollector(Collector):
    """What the state database and the credential file say, at each scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: tuple[int, list[Sum]] | None = None

    def collect(self) -> Iterator[Metric]:
        """Give the metrics. Those of a database that cannot be read are left out."""
        yield from _credential_metrics(self._service.credentials)
        up = GaugeMetricFamily("ocm_state_up", "Whether the state database can be read.")
        try:
            sums, quota = self._sums(), self._service.ledger.quota(CREDENTIAL)
        except StateError:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
            yield from _usage_metrics(sums)
            yield from _quota_metrics(quota)
        yield up

    def _sums(self) -> list[Sum]:
        """Add all turns up, by user and model, unless none has come since that was last done."""
        with self._service.database.read() as connection:
            turns = queries.turns_summed(connection)
            if self._known is None or self._known[0] != turns:
                sums = queries.sums(connection, None, None, ("user", "model"), user=None, utc_offset_seconds=0)
                self._known = turns, sums
            return self._known[1]


def _usage_metrics(sums: Iterable[Sum]) -> Iterator[Metric]:
    names = ["user", "model"]
    turns = CounterMetricFamily("ocm_turns", "Turns since the first.", labels=names)
    unpriced = CounterMetricFamily("ocm_turns_unpriced", "Turns without a known price.", labels=names)
    tokens = CounterMetricFamily(
        "ocm_tokens", "Tokens, by kind: input, of it cached, output, of it reasoning.", labels=[*names, "kind"]
    )
    cost = CounterMetricFamily("ocm_cost_usd", "Cost at OpenAI's API prices, in US dollars.", labels=names)
    silent: dict[str, int] = {}
    for sum_ in sums:
        user, model, counts = str(sum_.group["user"]), str(sum_.group["model"]), sum_.counts
        silent[user] = silent.get(user, 0) + counts.turns_without_usage
        if counts.turns > counts.turns_without_usage:
            labels = (user, model)
            turns.add_metric(labels, counts.turns - counts.turns_without_usage)
            unpriced.add_metric(labels, counts.turns_unpriced)
            for kind in ("input", "cached", "output", "reasoning"):
                tokens.add_metric((*labels, kind), getattr(counts, f"{kind}_tokens"))
            cost.add_metric(labels, counts.cost_micro_usd / 1_000_000)
    for user, count in silent.items():
        turns.add_metric((user, UNKNOWN_MODEL), count)
    yield from (turns, unpriced, tokens, cost)


def _quota_metrics(quota: Quota | None) -> Iterator[Metric]:
    names = ["limit", "window"]
    used = GaugeMetricFamily("ocm_rate_limit_used_percent", "How full upstream says a window is.", labels=names)
    length = GaugeMetricFamily("ocm_rate_limit_window_seconds", "How long the window is.", labels=names)
    reset = GaugeMetricFamily("ocm_rate_limit_reset_timestamp_seconds", "When the window ends.", labels=names)
    seen = GaugeMetricFamily("ocm_rate_limit_seen_timestamp_seconds", "When upstream last told of its windows.")
    if quota is not None:
        seen.add_metric([], quota.at)
        for limit in rate_limits_of(quota).limits:
            for name, window in (("primary", limit.primary), ("secondary", limit.secondary)):
                if window is not None:
                    used.add_metric([limit.id, name], window.used_percent)
                    length.add_metric([limit.id, name], window.window_minutes * 60)
                    reset.add_metric([limit.id, name], window.reset_at)
    yield from (used, length, reset, seen)


def _credential_metrics(credentials: CredentialSource) -> Iterator[Metric]:
    usable = GaugeMetricFamily("ocm_credential_usable", "Whether requests can be sent with the owner's credential.")
    expires = GaugeMetricFamily(
        "ocm_credential_expiry_timestamp_seconds", "When the access token ends, unless renewed."
    )
    try:
        credential = credentials.peek()
    except CredentialError:
        usable.add_metric([], 0)
    else:
        usable.add_metric([], 1)
        if credential.expires_at is not None:
            expires.add_metric([], credential.expires_at)
    yield from (usable, expires)
