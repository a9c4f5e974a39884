"""Health checks: whether the process is alive, and whether it can serve requests. No token is needed."""

from __future__ import annotations

from flask import Flask, Response, g, jsonify

from ocm_wsgi.reporting.readiness import Readiness
from ocm_wsgi.service import Service
from ocm_wsgi.views.auth import uncached


def init_app(app: Flask, service: Service) -> None:
    """Register /ocm/healthz and /ocm/readyz."""
    readiness = Readiness([account.credentials for account in service.accounts.all()], service.database)
    app.add_url_rule("/ocm/healthz", "healthz", show_health)
    app.add_url_rule("/ocm/readyz", "readyz", lambda: show_readiness(readiness))


def show_health() -> Response:
    """Report that the process responds."""
    g.request_log.is_quiet = True
    return uncached(jsonify({"alive": True}))


def show_readiness(readiness: Readiness) -> Response:
    """Report whether requests can be served, and if not, why."""
    g.request_log.is_quiet = True
    reasons = readiness.reasons()
    response = jsonify({"ready": not reasons, "reasons": reasons})
    response.status_code = 503 if reasons else 200
    return uncached(response)
