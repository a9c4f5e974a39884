"""Flask's hooks that keep a :class:`RequestLog` for each request, as ``g.request_log``."""

from __future__ import annotations

from flask import Flask, Response, g, request

from ocm_wsgi.gateway.environ import Environ
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.views.current import current_request
from ocm_wsgi.views.responses import LateResponse


def init_app(app: Flask) -> None:
    """Log every request at its end, except those whose response logs its own end."""
    app.before_request(_begin)
    app.after_request(_end)


def request_id(environ: Environ) -> str:
    """Return the client's name for its request, or ``""``. Upstream is sent the same field."""
    return str(environ.get("HTTP_X_CLIENT_REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID") or "")


def _begin() -> None:
    begun = current_request()
    g.request_log = RequestLog(method=begun.method, path=begun.path, request_id=request_id(begun.environ))


def _end(response: Response) -> Response:
    if not isinstance(response, LateResponse):
        log: RequestLog = g.request_log
        body_bytes = 0 if request.method == "HEAD" else response.content_length or 0
        log.log(status=response.status_code, body_bytes=body_bytes)
    return response
