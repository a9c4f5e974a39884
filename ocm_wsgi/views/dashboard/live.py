"""Noting the requests to the API that are under way."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, g, request

from ocm_wsgi.logs import RequestLine
from ocm_wsgi.views.access import RequestNote
from ocm_wsgi.views.dashboard.blueprint import Dashboard
from ocm_wsgi.views.wsgi import wants_websocket


def init_app(app: Flask) -> None:
    """Take up each request that may become a turn, from its beginning to its end."""
    dashboard: Dashboard = app.extensions["ocm_dashboard"]

    def begin() -> None:
        if request.path.startswith("/v1/") and (request.method == "POST" or wants_websocket(request.environ)):
            note: RequestNote = g.note
            note.on_end = _both(dashboard.live.begin(note), note.on_end)

    app.before_request(begin)


def _both(end: Callable[[], None], then: Callable[[RequestLine], None] | None) -> Callable[[RequestLine], None]:
    def on_end(line: RequestLine) -> None:
        end()
        if then is not None:
            then(line)

    return on_end
