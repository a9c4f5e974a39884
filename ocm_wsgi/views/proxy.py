"""``/v1/*``, the API: checks who may send what, opens upstream, and hands the open response to the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial

from flask import Response, g
from werkzeug.routing import PathConverter, Rule

from ocm_wsgi.accounting.abandoned_turns import record_abandoned
from ocm_wsgi.accounting.refused_turns import record_refused
from ocm_wsgi.accounting.turn_accounting import TurnRequest
from ocm_wsgi.admission.metering import require_metered
from ocm_wsgi.admission.waiting import DEFAULT_THREADS
from ocm_wsgi.credentials import Mode
from ocm_wsgi.errors import PoolUsedUp, RequestUnauthorized, UpstreamError
from ocm_wsgi.gateway.environ import (
    REQUEST_THREADS,
    Environ,
    announced_length,
    client_fields,
    client_socket,
    has_body,
    request_target,
    wants_websocket,
)
from ocm_wsgi.gateway.request_body import Body, read_body
from ocm_wsgi.ownership.access import (
    Access,
    claiming_answer,
    forget_deleted,
    require_access,
    require_body,
)
from ocm_wsgi.pools.dispatch import Dispatch
from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET
from ocm_wsgi.protocol.http.bearer import refuse_api_key_fields
from ocm_wsgi.protocol.http.cors import is_preflight
from ocm_wsgi.protocol.http.fields import Fields, value_of, with_readable_codings
from ocm_wsgi.protocol.http.targets import ApiTarget, api_target
from ocm_wsgi.protocol.responses.request import RequestFacts, request_facts
from ocm_wsgi.relay.answer import RelayedAnswer
from ocm_wsgi.relay.disconnects import Watch
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.telemetry.request_log import RequestLog
from ocm_wsgi.upstream.client import ClientRequest, UpstreamResponse
from ocm_wsgi.upstream.exchange import Exchange
from ocm_wsgi.users.user import User
from ocm_wsgi.views.application import Application
from ocm_wsgi.views.auth import authenticate
from ocm_wsgi.views.cors import preflight_response
from ocm_wsgi.views.current import current_request, current_service
from ocm_wsgi.views.owned_lists import owned_list_response
from ocm_wsgi.views.responses import RelayedResponse
from ocm_wsgi.views.websocket import open_websocket


class _RestConverter(PathConverter):
    """Matches the rest of a path, including empty segments; :func:`api_target` rejects what is invalid."""

    regex = ".*?"
    part_isolating = False


def init_app(app: Application) -> None:
    """Register ``/v1/`` and everything below it, for all methods, including unknown ones."""
    app.url_map.merge_slashes = False  # A redirect to another target would bypass the check of this one.
    app.url_map.converters["rest"] = _RestConverter
    for is_websocket in (True, False):
        app.api_rule = Rule("/v1/<rest:rest>", endpoint="relay", websocket=is_websocket)
        app.url_map.add(app.api_rule)
    app.view_functions["relay"] = relay


def relay(rest: str) -> Response:
    """Relay one request.

    :param rest: unused because it is decoded; the target is taken verbatim from the request line.
    """
    log: RequestLog = g.request_log
    service, request = current_service(), current_request()
    environ = request.environ
    fields = client_fields(environ)
    if is_preflight(request.method, fields):
        return preflight_response(fields, service)
    refuse_api_key_fields(fields)
    user = authenticate(service, fields)
    log.user = user.name
    with service.admission.waiting.counted(user.name, environ.get(REQUEST_THREADS, DEFAULT_THREADS)):
        return _relay(service, user, request.method, environ, fields, log)


def _relay(service: Service, user: User, method: str, environ: Environ, fields: Fields, log: RequestLog) -> Response:
    target = api_target(request_target(environ), host=value_of(fields, "host"))
    log.path = f"/v1/{target.path}"
    is_upgrade = wants_websocket(environ)
    dispatch = service.dispatch(user)
    access = _permitted(service, dispatch, user, WEBSOCKET if is_upgrade else method, target)
    if is_upgrade:
        user_now = partial(authenticate, service, fields)
        return open_websocket(service, dispatch, access, user_now, target, fields, log)
    if access.lists is not None:
        return owned_list_response(service, dispatch, access, target, fields)
    exchange = Exchange()
    with ExitStack() as undo:
        body = _read_body(environ, limit=service.config.max_body_bytes)
        watch = _watch_client(service, environ, exchange)
        if watch is not None:
            undo.callback(watch.cancel)
        with body or nullcontext():
            facts = _read_facts(access, fields, body)
            turn = None
            if access.endpoint.is_turn:
                turn = _turn_request(service, user, target, access, facts, log)
                undo.callback(turn.release)
            require_body(service.owners, access, facts)
            if access.endpoint.has_answer_read:
                fields = with_readable_codings(fields)
            service.background.fetch_before_deletion(access)
            sent = ClientRequest(method, target, fields, body, exchange)
            upstream = _open(service, dispatch, sent, facts, turn)
        undo.pop_all()
    if dispatch.pool is not None:
        access, turn = _served(dispatch, access, turn)
    answer = _answer(service, access, facts, turn, upstream)
    dispatch.show(upstream)
    return RelayedResponse(upstream, answer, watch, log)


def _open(
    service: Service, dispatch: Dispatch, sent: ClientRequest, facts: RequestFacts, turn: TurnRequest | None
) -> UpstreamResponse:
    """Open upstream's response. A turn that ends without one is recorded if upstream has got it."""
    try:
        return dispatch.open(sent, cache_key=facts.cache_key, references=facts.references, is_turn=turn is not None)
    except UpstreamError:
        if turn is not None and sent.exchange.aborted and sent.exchange.is_sent:
            turn = replace(turn, credential=dispatch.account.tag)
            record_abandoned(service.accounting, turn, service.config.prices)
        raise
    except (RequestUnauthorized, PoolUsedUp) as exc:
        if turn is not None and dispatch.was_asked:
            turn = replace(turn, credential=dispatch.account.tag)
            record_refused(service.accounting, turn, exc)
        raise


def _served(dispatch: Dispatch, access: Access, turn: TurnRequest | None) -> tuple[Access, TurnRequest | None]:
    """Return a request's access and turn, as of the account of a pool that serves it."""
    tag = dispatch.account.tag
    if turn is not None:
        turn = replace(turn, credential=tag, release=_both(turn.release, dispatch.release))
    return replace(access, credential=tag), turn


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _permitted(service: Service, dispatch: Dispatch, user: User, method: str, target: ApiTarget) -> Access:
    """Return a request's access to what its path names. Refuse it if that is not permitted.

    :param method: as the table of endpoints has it.
    """
    is_admin = sees_all(user)
    endpoint = service.endpoints[dispatch.mode].find(method, target.path, is_admin=is_admin)
    return require_access(
        service.owners,
        user.name,
        endpoint,
        target.endpoint,
        sees_all=is_admin,
        is_stored=dispatch.mode is Mode.API_KEY,
        credential=dispatch.tag,
    )


def _answer(
    service: Service, access: Access, facts: RequestFacts, turn: TurnRequest | None, upstream: UpstreamResponse
) -> RelayedAnswer | None:
    """Return what must be recorded of an answer before its end is sent, or ``None``."""
    forget_deleted(service.owners, access, upstream.status)
    open_turn = None if turn is None else service.accounting.open(turn, upstream.status, upstream.fields)
    claiming = claiming_answer(
        service.owners,
        service.settlements,
        access,
        upstream.status,
        upstream.fields,
        open_turn,
        facts=facts,
        turn_id=None if open_turn is None else open_turn.id,
    )
    return claiming or open_turn


def _read_facts(access: Access, fields: Fields, body: Body | None) -> RequestFacts:
    """Return what a body asks for, if that matters."""
    if body is None or not body.length or not (access.requires_body or access.endpoint.is_turn):
        return RequestFacts()
    encoding, media_type = value_of(fields, "content-encoding"), value_of(fields, "content-type")
    return request_facts(
        body.blocks(),
        encoding or "",
        media_type or "",
        length=body.length,
        find_references=access.find_references,
    )


def _turn_request(
    service: Service,
    user: User,
    target: ApiTarget,
    access: Access,
    facts: RequestFacts,
    log: RequestLog,
) -> TurnRequest:
    """Admit a turn, or refuse it."""
    endpoint = access.endpoint
    require_metered(user, endpoint)
    log.model = facts.model or ""
    family = endpoint.family or "other"
    input_tokens = facts.input_tokens + service.accounting.continued_tokens(user.name, facts)
    return TurnRequest(
        user=user.name,
        endpoint=target.endpoint,
        facts=facts,
        started_at=time.time() - (time.monotonic() - log.started),
        started=log.started,
        request_id=log.request_id,
        release=service.admission.admit(
            user,
            facts.model,
            unread=facts.unread,
            names_model=endpoint.names_model,
            family=family,
            input_tokens=facts.input_tokens,
            credential=access.credential,
        ),
        family=family,
        input_tokens=input_tokens,
        reads_on=bool(user.limits),
        credential=access.credential,
    )


def _read_body(environ: Environ, *, limit: int) -> Body | None:
    if not has_body(environ):
        return None
    return read_body(environ["wsgi.input"], announced=announced_length(environ), limit=limit)


def _watch_client(service: Service, environ: Environ, exchange: Exchange) -> Watch | None:
    """Abort the exchange if its client disconnects, provided that the server exposes the client's socket."""
    connection = client_socket(environ)
    return None if connection is None else service.disconnects.watch(connection.fileno(), exchange.abort)
