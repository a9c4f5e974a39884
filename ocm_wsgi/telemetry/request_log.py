"""A request from its beginning to the one line that the log has of it at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ocm_wsgi.protocol.responses.turn import MAX_REQUEST_ID_LENGTH, Turn
from ocm_wsgi.telemetry import logs
from ocm_wsgi.telemetry.live_requests import Tracker, untracked
from ocm_wsgi.telemetry.logs import RequestLine


class RequestLog:
    """A request under way, and its line in the log.

    :ivar user: the user's name, as soon as it is known.
    :ivar path: without the query.
    :ivar model: the model that a turn names, as soon as it is known, or ``""``.
    :ivar started: reading of the monotonic clock, in seconds.
    :ivar end: why the request does not end as it should, or ``""``.
    :ivar is_quiet: whether its line is logged at the debug level only, unless the request fails.
    :ivar on_end: callbacks, called once with the line, just before it is written.
    :ivar track_turn: called at the start of each turn of a WebSocket.
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
        self.on_end: list[Callable[[RequestLine], None]] = []
        self.track_turn: Tracker = untracked
        self._is_written = False

    def log(
        self, *, status: int, body_bytes: int, end: str = "", ended: float | None = None, turn: Turn | None = None
    ) -> None:
        """Write the line, at the end of the request. Calling it again does nothing.

        :param body_bytes: size of the response's body, as sent to the client.
        :param ended: when the request ended, on the monotonic clock; ``None`` for now.
        :param turn: the turn's record, if the request was one.
        """
        if self._is_written:
            return
        self._is_written = True
        line = RequestLine(
            user=self.user,
            method=self.method,
            path=self.path,
            status=status,
            body_bytes=body_bytes,
            duration_seconds=(time.monotonic() if ended is None else ended) - self.started,
            request_id=self.request_id,
            turn=turn,
            end=end or self.end,
        )
        for on_end in self.on_end:
            on_end(line)
        logs.write(line, logging.DEBUG if self.is_quiet and status < 400 else logging.INFO)
