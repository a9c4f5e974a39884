"""A WebSocket at ``/v1/responses``: the opening handshake goes upstream, and the open tunnel to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from flask import Response, request

from ocm_wsgi.errors import UpgradeUnavailable
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.targets import ApiTarget
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.websocket.handshake import HandshakeResponse, require_opening_handshake
from ocm_wsgi.protocol.websocket.session import WebSocketSession
from ocm_wsgi.relay.websocket_turns import SocketTurn, SocketTurns
from ocm_wsgi.service import Service
from ocm_wsgi.upstream.client import ClientRequest, UpstreamResponse
from ocm_wsgi.upstream.exchange import Exchange
from ocm_wsgi.upstream.response import RawBody
from ocm_wsgi.users.user import User
from ocm_wsgi.views.access import LateResponse, RequestNote
from ocm_wsgi.views.relayed import RelayedResponse
from ocm_wsgi.wsgi.environ import Environ, client_socket

#: In the environ of a server that takes tunnels over.
CAN_TUNNEL = "ocm.can_tunnel"

_UNAVAILABLE = "WebSocket is not available here; use HTTP with Server-Sent Events."


@dataclass(frozen=True)
class OpenedTunnel:
    """Two connections that have become a WebSocket, for a server that moves the octets and owns all of this.

    As the body of a response it is empty: no other server gets to see one.
    """

    answer: HandshakeResponse
    upstream: RawBody
    session: WebSocketSession[SocketTurn]
    turns: SocketTurns
    note: RequestNote

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """Called by a server that did not take the tunnel over."""
        self.abandon("not taken over")

    def abandon(self, end: str) -> None:
        """Give it up before anything has passed."""
        self.upstream.close()
        self.log(octets=0, end=end)

    def log(self, *, octets: int, end: str) -> None:
        """Write the request's line, when all is over."""
        self.note.log(status=self.answer.status, octets=octets, end=end)


class TunnelResponse(LateResponse):
    """Hands an opened tunnel to the server."""

    def __init__(self, tunnel: OpenedTunnel) -> None:
        super().__init__(status=tunnel.answer.status)
        self._tunnel = tunnel

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer as a WSGI application; the fields are left to the server, which sends upstream's answer as it is."""
        answer = self._tunnel.answer
        start_response(f"{answer.status} {answer.reason}", [])
        return self._tunnel


def open_websocket(
    service: Service, authenticate: Callable[[], User], target: ApiTarget, fields: Fields, note: RequestNote
) -> Response:
    """Pass an opening handshake upstream, and upstream's answer back, be it yes or no.

    :param authenticate: gives the user as of now; asked again at each turn.
    :raises UpgradeUnavailable: the server does not take tunnels over, or the way upstream allows none.
    """
    environ = request.environ
    if not environ.get(CAN_TUNNEL):
        raise UpgradeUnavailable(_UNAVAILABLE)
    require_opening_handshake(request.method, environ["SERVER_PROTOCOL"], target.endpoint, fields)
    exchange = Exchange()
    client = client_socket(environ)
    with ExitStack() as undo:
        watch = None if client is None else service.hangups.watch(client.fileno(), exchange.abort)
        if watch is not None:
            undo.callback(watch.cancel)
        upstream = service.upstream.open(ClientRequest("GET", target, fields, None, exchange, is_upgrade=True))
        limits, week_start = rate_limits.read_fields(upstream.fields)
        if limits is not None:
            service.accounting.note(limits)
        if not upstream.handshake_response(b"").is_accepted:
            undo.pop_all()
            return RelayedResponse(upstream, None, watch, note)
        undo.callback(upstream.close)
        tunnel = _opened(service, authenticate, upstream, note, week_start)
        undo.pop_all()
    if watch is not None:
        watch.cancel()
    return TunnelResponse(tunnel)


def _opened(
    service: Service,
    authenticate: Callable[[], User],
    upstream: UpstreamResponse,
    note: RequestNote,
    week_start: int | None,
) -> OpenedTunnel:
    answer, body = _switched(upstream)
    turns = SocketTurns(
        authenticate,
        service.admission,
        service.accounting,
        user=note.user,
        path=note.path,
        request_id=note.request_id,
        week_start=week_start,
        track_turn=note.track_turn,
    )
    return OpenedTunnel(answer, body, WebSocketSession(answer.deflate()), turns, note)


def _switched(upstream: UpstreamResponse) -> tuple[HandshakeResponse, RawBody]:
    upstream.handshake_response(b"").require_websocket()
    body = upstream.raw_body()
    if body is None:
        raise UpgradeUnavailable(_UNAVAILABLE)
    return upstream.handshake_response(body.buffered), body
