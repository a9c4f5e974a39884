"""A WebSocket at ``/v1/responses``: sends the opening handshake upstream, and hands the open tunnel to the server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from flask import Response, request

from ocm_wsgi.errors import UpgradeUnavailable
from ocm_wsgi.gateway.environ import client_socket
from ocm_wsgi.ownership.access import Access
from ocm_wsgi.pools.dispatch import Dispatch
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.targets import ApiTarget
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.websocket.handshake import HandshakeResponse, require_opening_handshake
from ocm_wsgi.protocol.websocket.session import WebSocketSession
from ocm_wsgi.relay.handoff import CAN_TUNNEL, OpenedTunnel
from ocm_wsgi.relay.websocket_objects import WebSocketObjects
from ocm_wsgi.relay.websocket_turns import WebSocketTurns, nothing_to_begin
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.upstream.client import ClientRequest, UpstreamResponse
from ocm_wsgi.upstream.exchange import Exchange
from ocm_wsgi.upstream.response import RawResponse
from ocm_wsgi.users.user import User
from ocm_wsgi.views.responses import RelayedResponse, TunnelResponse

_UNAVAILABLE = "WebSocket is not available here; use HTTP with Server-Sent Events."


def open_websocket(
    service: Service,
    dispatch: Dispatch,
    access: Access,
    authenticate: Callable[[], User],
    target: ApiTarget,
    fields: Fields,
    log: RequestLog,
) -> Response:
    """Send an opening handshake upstream, and return upstream's response, whether it accepts or refuses.

    :param dispatch: opens it with the account that then serves it.
    :param access: of the handshake.
    :param authenticate: returns the user as of now; called again for each turn.
    :raises UpgradeUnavailable: the server does not take tunnels over, or the connection upstream does not allow one.
    """
    environ = request.environ
    if not environ.get(CAN_TUNNEL):
        raise UpgradeUnavailable(_UNAVAILABLE)
    require_opening_handshake(request.method, environ["SERVER_PROTOCOL"], target.endpoint, fields)
    exchange = Exchange()
    client = client_socket(environ)
    with ExitStack() as undo:
        watch = None if client is None else service.disconnects.watch(client.fileno(), exchange.abort)
        if watch is not None:
            undo.callback(watch.cancel)
        upstream = dispatch.open(ClientRequest("GET", target, fields, None, exchange, is_upgrade=True))
        limits, week_start = rate_limits.read_fields(upstream.fields)
        if limits is not None:
            service.accounting.note_rate_limits(limits, dispatch.account.tag)
        dispatch.show(upstream)
        if not upstream.handshake_response().is_accepted:
            undo.pop_all()
            return RelayedResponse(upstream, None, watch, log)
        undo.callback(upstream.close)
        access = replace(access, credential=dispatch.account.tag)
        tunnel = _open_tunnel(service, dispatch, access, authenticate, upstream, log, week_start)
        undo.pop_all()
    if watch is not None:
        watch.cancel()
    return TunnelResponse(tunnel)


def _open_tunnel(
    service: Service,
    dispatch: Dispatch,
    access: Access,
    authenticate: Callable[[], User],
    upstream: UpstreamResponse,
    log: RequestLog,
    week_start: int | None,
) -> OpenedTunnel:
    answer, body = _switch_protocols(upstream)
    socket = dispatch.socket()
    turns = WebSocketTurns(
        authenticate,
        service.admission,
        service.accounting,
        WebSocketObjects(service.owners, access, sees_all),
        user=log.user,
        path=log.path,
        request_id=log.request_id,
        week_start=week_start,
        track_turn=log.track_turn,
        begin_turn=nothing_to_begin if socket is None else socket.begin_turn,
    )
    session = WebSocketSession(
        answer.deflate(),
        turns.adopt,
        unauthorized=dispatch.unauthorized,
        limited=None if socket is None else socket.limited,
        shown_limits=None if socket is None else socket.shown_limits,
    )
    return OpenedTunnel(answer, body, session, turns, log)


def _switch_protocols(upstream: UpstreamResponse) -> tuple[HandshakeResponse, RawResponse]:
    answer = upstream.handshake_response()
    answer.require_websocket()
    body = upstream.detach()
    if body is None:
        raise UpgradeUnavailable(_UNAVAILABLE)
    return answer, body
