"""What is noted of every request from its beginning, for the one line that the log has of it at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flask import Flask, Response, g, request

from ocm_wsgi.protocol.responses.turn import MAX_REQUEST_ID_LENGTH, Turn
from ocm_wsgi.telemetry import logs
from ocm_wsgi.telemetry.live_requests import Tracker, untracked
from ocm_wsgi.telemetry.logs import RequestLine
from ocm_wsgi.wsgi.environ import Environ


class RequestNote:
    """One request under way.

    :ivar user: who asks, as soon as that is known.
    :ivar path: without the query.
    :ivar model: that a turn is asked of, as soon as that is known, or ``""``.
    :ivar started: reading of the monotonic clock, in seconds.
    :ivar end: why it does not end as it should, or ``""``.
    :ivar is_quiet: its line is wanted at the debug level only.
    :ivar on_end: called once with the line, when it is written.
    :ivar track_turn: told of the turns of a WebSocket.
    """

    def __init__(self, *, method: str, path: str, request_id: str = "", user: str = "") -> None:
        self.user = user
        self.method = method
        self.path = path
        self.request_id = request_id[:MAX_REQUEST_ID_LENGTH]
        self.model = ""
        self.started = time.monotonic()
        self.end = ""
        self.is_quiet = False
        self.on_end: Callable[[RequestLine], None] | None = None
        self.track_turn: Tracker = untracked
        self._is_written = False

    def log(self, *, status: int, octets: int, end: str = "", turn: Turn | None = None) -> None:
        """Write the line, at the end of the request. Doing it again does nothing.

        :param octets: of the body, as they went to the client.
        :param turn: what the ledger has of it, if it was a turn.
        """
        if self._is_written:
            return
        self._is_written = True
        line = RequestLine(
            user=self.user,
            method=self.method,
            path=self.path,
            status=status,
            octets=octets,
            duration_seconds=time.monotonic() - self.started,
            request_id=self.request_id,
            turn=turn,
            end=end or self.end,
        )
        if self.on_end is not None:
            self.on_end(line)
        logs.write(line, logging.DEBUG if self.is_quiet and status < 400 else logging.INFO)


class LateResponse(Response):
    """A response whose end is not known when the view returns it. Whoever sends it writes the request's line."""


def init_app(app: Flask) -> None:
    """Note every request, and write its line unless its response does that at its own end."""
    app.before_request(_begin)
    app.after_request(_end)


def request_id(environ: Environ) -> str:
    """What the client calls its request, or ``""``. Upstream is sent the same field."""
    return str(environ.get("HTTP_X_CLIENT_REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID") or "")


def _begin() -> None:
    g.note = RequestNote(method=request.method, path=request.path, request_id=request_id(request.environ))


def _end(response: Response) -> Response:
    if not isinstance(response, LateResponse):
        note: RequestNote = g.note
        octets = 0 if request.method == "HEAD" else response.content_length or 0
        note.log(status=response.status_code, octets=octets)
    return response
