"""Tracks the API requests and WebSocket turns in progress, for the overview."""

from __future__ import annotations

from flask import Flask, g

from ocm_wsgi.telemetry.live_requests import LiveRequests
from ocm_wsgi.telemetry.request_log import RequestLog


def init_app(app: Flask, live: LiveRequests) -> None:
    """Track each request that may become a turn; of a WebSocket, each turn instead of the connection."""

    def begin() -> None:
        log: RequestLog = g.request_log
        if not log.path.startswith("/v1/"):
            return
        log.track_turn = live.track
        if log.method == "POST":
            end = live.track(log)
            log.on_end.append(lambda _line: end())

    app.before_request(begin)
