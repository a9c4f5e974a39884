"""The Prometheus metrics that are read at each scrape: turns, tokens, cost, rate limits and the credential.

They come from the state database, so they are exact whichever process serves the scrape, and survive every process.
Metrics that only the processes know are in ``telemetry.counters``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.ledger import Ledger, RateLimitsSnapshot
from ocm_wsgi.accounting.queries import Sum
from ocm_wsgi.credentials import CredentialSource
from ocm_wsgi.credentials.refresh_protocol import RefreshOutcome, Result
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.quota.limits import MICRO_PER_USD
from ocm_wsgi.storage.database import Database
from ocm_wsgi.telemetry import counters

#: How often a process shows how many of its records are not in the database yet, and which requests have started.
SAMPLE_SECONDS = 5.0

#: The model of turns without reported usage: for those, clients can make up names.
UNKNOWN_MODEL = "unknown"


def count_refresh(outcome: RefreshOutcome) -> None:
    """Count an attempt to refresh the credential; a callback for ``Refresher``."""
    counters.count_refresh(outcome.result.value)


def start_sampling(ledger: Ledger) -> None:
    """Show what is not shown as it changes, every ``SAMPLE_SECONDS``, in a thread that ends with the process."""
    counters.show_refresh_results(result.value for result in Result)
    threading.Thread(target=_keep_sampling, args=(ledger,), name="ocm-metrics", daemon=True).start()


def sample(ledger: Ledger) -> None:
    """Set the metrics of this process's turn records that are not in the state database yet."""
    backlog = ledger.backlog()
    counters.set_ledger_backlog(
        memory=backlog.memory, spool=backlog.spool, is_database_failing=backlog.is_database_failing
    )


def _keep_sampling(ledger: Ledger) -> None:
    pause = threading.Event()
    while True:
        sample(ledger)
        counters.show_request_starts()
        pause.wait(SAMPLE_SECONDS)


class StateCollector(Collector):
    """Reads the state database and the credentials at each scrape.

    With several credentials, their metrics have the label ``credential``.

    :param credentials: by the tag of the account.
    """

    def __init__(self, credentials: Mapping[str, CredentialSource], database: Database, ledger: Ledger) -> None:
        self._credentials = credentials
        self._database = database
        self._ledger = ledger
        self._cached: tuple[int, list[Sum]] | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. If the database cannot be read, those of it are left out."""
        yield from _credential_metrics(self._credentials)
        up = GaugeMetricFamily("ocm_state_up", "Whether the state database can be read.")
        try:
            sums = self._sums()
            quotas = {tag: self._ledger.rate_limits(tag) for tag in self._credentials}
        except StateError:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
            yield from _usage_metrics(sums)
            yield from _quota_metrics(quotas)
        yield up

    def _sums(self) -> list[Sum]:
        """Return the sums of all turns by user and model, computed again only if there are new turns."""
        with self._database.read() as connection:
            turns = queries.sums_revision(connection)
            if self._cached is None or self._cached[0] != turns:
                sums = queries.sums(connection, None, None, ("user", "model"), user=None, utc_offset_seconds=0)
                self._cached = turns, sums
            return self._cached[1]


def _usage_metrics(sums: Iterable[Sum]) -> Iterator[Metric]:
    names = ["user", "model"]
    turns = CounterMetricFamily("ocm_turns", "Turns.", labels=names)
    unpriced = CounterMetricFamily("ocm_turns_unpriced", "Turns of models without a known price.", labels=names)
    estimated = CounterMetricFamily("ocm_turns_estimated", "Turns whose usage is our estimate.", labels=names)
    tokens = CounterMetricFamily(
        "ocm_tokens",
        "Tokens by kind: input, cached (part of input), output, reasoning (part of output).",
        labels=[*names, "kind"],
    )
    cost = CounterMetricFamily("ocm_cost_usd", "Cost at OpenAI's API prices, in US dollars.", labels=names)
    without_usage: dict[str, int] = {}
    for sum_ in sums:
        user, model, counts = str(sum_.group["user"]), str(sum_.group["model"]), sum_.counts
        without_usage[user] = without_usage.get(user, 0) + counts.turns_without_usage
        if counts.turns > counts.turns_without_usage:
            labels = (user, model)
            turns.add_metric(labels, counts.turns - counts.turns_without_usage)
            unpriced.add_metric(labels, counts.turns_unpriced)
            estimated.add_metric(labels, counts.turns_estimated)
            for kind in ("input", "cached", "output", "reasoning"):
                tokens.add_metric((*labels, kind), getattr(counts, f"{kind}_tokens"))
            cost.add_metric(labels, counts.cost_micro_usd / MICRO_PER_USD)
    for user, count in without_usage.items():
        turns.add_metric((user, UNKNOWN_MODEL), count)
    yield from (turns, unpriced, estimated, tokens, cost)


def _labels(tags: Mapping[str, object]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the labels of metrics about accounts, and their values for each: none if there is one account only."""
    return (["credential"], {tag: [tag] for tag in tags}) if len(tags) > 1 else ([], {tag: [] for tag in tags})


def _quota_metrics(quotas: Mapping[str, RateLimitsSnapshot | None]) -> Iterator[Metric]:
    own, values = _labels(quotas)
    names = [*own, "limit", "window"]
    used = GaugeMetricFamily(
        "ocm_rate_limit_used_percent",
        "Used part of a rate limit window in percent, as reported by upstream.",
        labels=names,
    )
    length = GaugeMetricFamily("ocm_rate_limit_window_seconds", "Length of the window.", labels=names)
    reset = GaugeMetricFamily("ocm_rate_limit_reset_timestamp_seconds", "End of the window.", labels=names)
    seen = GaugeMetricFamily(
        "ocm_rate_limit_seen_timestamp_seconds", "When upstream last reported its windows.", labels=own
    )
    for tag, quota in quotas.items():
        if quota is None:
            continue
        seen.add_metric(values[tag], quota.at)
        for limit in quota.limits.limits:
            for name, window in (("primary", limit.primary), ("secondary", limit.secondary)):
                if window is not None:
                    used.add_metric([*values[tag], limit.id, name], window.used_percent)
                    length.add_metric([*values[tag], limit.id, name], window.window_minutes * 60)
                    reset.add_metric([*values[tag], limit.id, name], window.reset_at)
    yield from (used, length, reset, seen)


def _credential_metrics(credentials: Mapping[str, CredentialSource]) -> Iterator[Metric]:
    own, values = _labels(credentials)
    usable = GaugeMetricFamily("ocm_credential_usable", "Whether the owner's credential can be used.", labels=own)
    expires = GaugeMetricFamily(
        "ocm_credential_expiry_timestamp_seconds", "When the access token expires unless it is refreshed.", labels=own
    )
    for tag, source in credentials.items():
        try:
            credential = source.peek()
        except CredentialError:
            usable.add_metric(values[tag], 0)
        else:
            usable.add_metric(values[tag], 1)
            if credential.expires_at is not None:
                expires.add_metric(values[tag], credential.expires_at)
    yield from (usable, expires)
