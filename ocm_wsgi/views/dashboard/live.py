"""Tracks the API requests and WebSocket turns in progress, for the overview."""

from __future__ import annotations

from flask import Flask, g, request

from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.views.dashboard.blueprint import Dashboard


def init_app(app: Flask) -> None:
    """Track each request that may become a turn; of a WebSocket, each turn instead of the connection."""
    dashboard: Dashboard = app.extensions["ocm_dashboard"]

    def begin() -> None:
        if not request.path.startswith("/v1/"):
            return
        log: RequestLog = g.request_log
        log.track_turn = dashboard.live.track
        if request.method == "POST":
            end = dashboard.live.track(log)
            log.on_end.append(lambda _line: end())

    app.before_request(begin)
