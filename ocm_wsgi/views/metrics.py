"""``/metrics``, for Prometheus."""

from __future__ import annotations

from flask import Flask, Response, g, request
from prometheus_client.exposition import choose_encoder

from ocm_wsgi.reporting import prometheus
from ocm_wsgi.reporting.prometheus import StateCollector
from ocm_wsgi.service import Service
from ocm_wsgi.telemetry import counters
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.views.auth import require_scraper, uncached


def init_app(app: Flask, service: Service) -> None:
    """Register /metrics, and count API requests."""
    collector = StateCollector(
        {account.tag: account.credentials for account in service.accounts.all()}, service.database, service.ledger
    )
    app.before_request(_count)
    app.add_url_rule("/metrics", "metrics", lambda: show(service, collector))


def show(service: Service, collector: StateCollector) -> Response:
    """Return the metrics of all workers."""
    require_scraper(service)
    g.request_log.is_quiet = True
    prometheus.sample(service.ledger)
    encode, media_type = choose_encoder(request.headers.get("Accept", ""))
    return uncached(Response(encode(counters.registry(collector)), content_type=media_type))


def _count() -> None:
    log: RequestLog = g.request_log
    if log.path.startswith("/v1/"):
        counters.count_request_start()
        log.on_end.append(counters.count_request_end)
