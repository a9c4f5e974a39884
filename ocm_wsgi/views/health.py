"""For those who watch over the process: whether it is alive, and whether it can serve. Without a token."""

from __future__ import annotations

from flask import Flask, Response, g, jsonify

from ocm_wsgi.reporting.readiness import Readiness
from ocm_wsgi.service import Service
from ocm_wsgi.views.auth import uncached


def init_app(app: Flask) -> None:
    """Serve both."""
    service: Service = app.extensions["ocm"]
    readiness = Readiness(service.credentials, service.database)
    app.add_url_rule("/ocm/healthz", "healthz", show_health)
    app.add_url_rule("/ocm/readyz", "readyz", lambda: show_readiness(readiness))


def show_health() -> Response:
    """The process answers."""
    g.note.is_quiet = True
    return uncached(jsonify({"alive": True}))


def show_readiness(readiness: Readiness) -> Response:
    """Whether requests can be served, and if not, why."""
    g.note.is_quiet = True
    reasons = readiness.reasons()
    response = jsonify({"ready": not reasons, "reasons": reasons})
    response.status_code = 503 if reasons else 200
    return uncached(response)
