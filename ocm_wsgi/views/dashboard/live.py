"""Tracks the API requests and WebSocket turns in progress, for the overview."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, g, request

from ocm_wsgi.telemetry.logs import RequestLine
from ocm_wsgi.views.access import RequestNote
from ocm_wsgi.views.dashboard.blueprint import Dashboard


def init_app(app: Flask) -> None:
    """Track each request that may become a turn; of a WebSocket, each turn instead of the connection."""
    dashboard: Dashboard = app.extensions["ocm_dashboard"]

    def begin() -> None:
        if not request.path.startswith("/v1/"):
            return
        note: RequestNote = g.note
        note.track_turn = dashboard.live.track
        if request.method == "POST":
            note.on_end = _both(dashboard.live.track(note), note.on_end)

    app.before_request(begin)


def _both(end: Callable[[], None], then: Callable[[RequestLine], None] | None) -> Callable[[RequestLine], None]:
    def on_end(line: RequestLine) -> None:
        end()
        if then is not None:
            then(line)

    return on_end
