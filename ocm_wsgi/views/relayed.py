"""A response whose body is still being made by upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ocm_wsgi.accounting.turn_accounting import OpenTurn
from ocm_wsgi.errors import UpstreamCut
from ocm_wsgi.relay.disconnects import Watch
from ocm_wsgi.upstream.client import UpstreamResponse
from ocm_wsgi.upstream.response import RawBody
from ocm_wsgi.views.access import LateResponse, RequestNote
from ocm_wsgi.wsgi.environ import CLIENT_STALL_SECONDS, Environ, client_socket, reset


@dataclass(frozen=True)
class HandOver:
    """A relayed response for a server that moves its bytes itself, and owns all of this from here on."""

    body: RawBody
    turn: OpenTurn | None
    note: RequestNote
    status: int

    def log(self, *, octets: int, end: str) -> None:
        """Write the request's line, when all is over."""
        turn = None if self.turn is None else self.turn.turn
        self.note.log(status=self.status, octets=octets, end=end, turn=turn)

    def abandon(self, end: str) -> None:
        """Give all of it up before anything of the body was sent."""
        self.body.close()
        if self.turn is not None:
            self.turn.close_async()
        self.log(octets=0, end=end)


class RelayedBody:
    """The body of a relayed response, for a WSGI server to iterate over and to close.

    A class and not a generator: a generator that is never started never runs its ``finally``, and upstream's
    connection would leak.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        turn: OpenTurn | None,
        watch: Watch | None,
        note: RequestNote,
        environ: Environ,
    ) -> None:
        self._upstream = upstream
        self._turn = turn
        self._watch = watch
        self._note = note
        self._socket = client_socket(environ)
        self._is_framed = environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
        self._pieces = upstream.pieces() if turn is None else turn.observed(upstream.pieces())
        self._octets = 0
        self._end = "" if upstream.is_bodiless else "client left"
        if self._socket is not None and self._socket.gettimeout() != CLIENT_STALL_SECONDS:
            # Bounds each write: a client that takes nothing would hold this thread for ever. The server sets the
            # socket back to blocking before it reads the next request.
            self._socket.settimeout(CLIENT_STALL_SECONDS)

    def __iter__(self) -> RelayedBody:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end = ""
            raise
        except UpstreamCut as cut:
            if not self._upstream.exchange.aborted:
                self._end = f"upstream cut it: {cut.detail}"
                if not self._is_framed:
                    reset(self._socket)
            raise
        self._octets += len(piece)
        return piece

    def hand_over(self) -> HandOver | None:
        """Give everything to the server, which then neither iterates nor closes this body.

        :return: ``None`` where the server must iterate as usual.
        :raises OSError: upstream's connection broke this moment.
        """
        body = None if self._upstream.exchange.aborted else self._upstream.raw_body()
        if body is None:
            return None
        if self._watch is not None:
            self._watch.cancel()
        return HandOver(body, self._turn, self._note, self._upstream.status)

    def close(self) -> None:
        """Called by the server when the response was sent, or could not be."""
        if self._watch is not None:
            self._watch.cancel()
        self._upstream.close()
        if self._turn is not None:
            self._turn.close()
        turn = None if self._turn is None else self._turn.turn
        self._note.log(status=self._upstream.status, octets=self._octets, end=self._end, turn=turn)


class RelayedResponse(LateResponse):
    """Passes upstream's status, fields and body on as they are.

    Werkzeug's own ``__call__`` would invent a media type, rewrite ``Location`` and strip fields of a 304.
    """

    def __init__(
        self, upstream: UpstreamResponse, turn: OpenTurn | None, watch: Watch | None, note: RequestNote
    ) -> None:
        super().__init__(status=upstream.status)
        self._upstream = upstream
        self._turn = turn
        self._watch = watch
        self._note = note

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        body = RelayedBody(self._upstream, self._turn, self._watch, self._note, environ)
        try:
            start_response(f"{self._upstream.status} {self._upstream.reason}", self._upstream.fields)
        except BaseException:
            body.close()
            raise
        return body
