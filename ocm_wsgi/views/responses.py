"""Flask responses whose bodies the relay hands to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flask import Response

from ocm_wsgi.gateway.environ import Environ
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.relay.answer import RelayedAnswer
from ocm_wsgi.relay.disconnects import Watch
from ocm_wsgi.relay.handoff import OpenedTunnel, RelayedBody
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.upstream.client import UpstreamResponse


class LateResponse(Response):
    """A response whose end is not known when the view returns it. Its sender writes the request's log line."""

    default_mimetype = None  # Its fields are upstream's.


class RelayedResponse(LateResponse):
    """Forwards upstream's status, fields and body unchanged.

    Werkzeug's own ``__call__`` would add a media type, rewrite ``Location`` and remove fields of a 304.

    :ivar added_fields: fields of ours, sent after upstream's.
    """

    def __init__(
        self, upstream: UpstreamResponse, turn: RelayedAnswer | None, watch: Watch | None, log: RequestLog
    ) -> None:
        super().__init__(status=upstream.status)
        self._upstream = upstream
        self._turn = turn
        self._watch = watch
        self._log = log
        self.added_fields: Fields = []

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        """Respond as a WSGI application."""
        body = RelayedBody(self._upstream, self._turn, self._watch, self._log, environ)
        try:
            start_response(
                f"{self._upstream.status} {self._upstream.reason}", [*self._upstream.fields, *self.added_fields]
            )
        except BaseException:
            body.close()
            raise
        return body


class TunnelResponse(LateResponse):
    """Hands an opened tunnel to the server."""

    def __init__(self, tunnel: OpenedTunnel) -> None:
        super().__init__(status=tunnel.answer.status)
        self._tunnel = tunnel

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        """Respond as a WSGI application, without fields: the server sends upstream's handshake response unchanged."""
        answer = self._tunnel.answer
        start_response(f"{answer.status} {answer.reason}", [])
        return self._tunnel
