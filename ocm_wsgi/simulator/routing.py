"""Finds the endpoint of a request, and its authentication."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ocm_wsgi.simulator import backend, background, control, media, oauth, platform, stored_objects
from ocm_wsgi.simulator.exchange import Exchange, Response, World
from ocm_wsgi.simulator.receiving import Head
from ocm_wsgi.simulator.targets import API_BASE, CODEX_BASE, escapes, is_below, path_of, readings

Authenticate = Callable[[World, Head], "str | Response"]


def _anyone(_: World, __: Head) -> str:
    return ""


@dataclass(frozen=True)
class Route:
    """An endpoint.

    :ivar is_api: whether plans without a path apply to it.
    :ivar obeys_plans: whether the endpoint itself returns the response in a plan.
    :ivar reports_limits: whether every response has the ``x-codex-*`` fields.
    :ivar accepts_websocket: whether a WebSocket can be opened here.
    """

    pattern: str
    methods: str
    handle: Callable[[Exchange], Response]
    authenticate: Authenticate = _anyone
    is_api: bool = False
    obeys_plans: bool = False
    accepts_websocket: bool = False
    reports_limits: bool = False

    def matches(self, method: str, path: str) -> bool:
        return method in (self.methods or method).split() and re.fullmatch(self.pattern, path) is not None


def _codex(
    pattern: str, methods: str, handle: Callable[[Exchange], Response], *, accepts_websocket: bool = False
) -> Route:
    return Route(
        CODEX_BASE + pattern,
        methods,
        handle,
        backend.authenticate,
        is_api=True,
        accepts_websocket=accepts_websocket,
        reports_limits=True,
    )


def _api(
    pattern: str, methods: str, handle: Callable[[Exchange], Response], *, accepts_websocket: bool = False
) -> Route:
    return Route(
        API_BASE + pattern, methods, handle, platform.authenticate, is_api=True, accepts_websocket=accepts_websocket
    )


#: The first match applies. An empty string of methods means all methods.
ROUTES = (
    Route("/backend-api/codex(/.*)?", "TRACE", backend.trace),
    Route("/v1(/.*)?", "TRACE", backend.trace),
    _codex("/responses", "POST", backend.responses),
    _codex("/responses", "GET", backend.unknown, accepts_websocket=True),
    _codex("/responses/compact", "POST", backend.compact),
    _codex("/models", "GET HEAD", backend.models),
    _codex("/alpha/search", "POST", backend.search),
    _codex("/images/(?:generations|edits)", "POST", media.images),
    _codex("/memories/trace_summarize", "POST", backend.trace_summarize),
    _codex("/realtime/calls", "POST", backend.call),
    _codex("/(?:remote_control|goals|analytics-events)(?:/.*)?", "", backend.private),
    _codex("(/.*)?", "", backend.unknown),
    Route("/backend-api/wham/usage", "GET", backend.usage, backend.authenticate),
    Route("/backend-api/wham/accounts/check", "GET", backend.accounts_check, backend.authenticate),
    Route("/backend-api(/.*)?", "", backend.private),
    _api("/responses", "POST", platform.responses),
    _api("/responses", "GET", platform.echo, accepts_websocket=True),
    _api("/responses/(?:compact|input_tokens)", "", platform.echo),
    _api("/responses/[^/]+", "GET", background.retrieve),
    _api("/responses/[^/]+/cancel", "POST", background.cancel),
    _api("/models", "GET HEAD", platform.models),
    _api("/models/[^/]+", "GET HEAD", platform.model),
    _api("/chat/completions", "POST", platform.chat_completions),
    _api("/completions", "POST", platform.completions),
    _api("/embeddings", "POST", platform.embeddings),
    _api("/moderations", "POST", media.moderations),
    _api("/images/(?:generations|edits|variations)", "POST", media.images),
    _api("/audio/speech", "POST", media.speech),
    _api("/audio/(?:transcriptions|translations)", "POST", media.transcription),
    _api("/videos(?:/edits|/extensions|/[^/]+/remix)?", "POST", media.video),
    _api("/vector_stores/[^/]+/search", "POST", media.vector_search),
    _api("/threads/runs", "POST", stored_objects.create_thread_and_run),
    _api(f"/(?:{stored_objects.CREATED_HERE})", "POST", stored_objects.create),
    _api(f"/(?:{stored_objects.ANY})", "GET", stored_objects.list_objects),
    _api(f"/(?:{stored_objects.ANY})/.+", "GET POST DELETE", stored_objects.use),
    _api("(/.*)?", "", platform.echo),
    Route("/oauth/token", "POST", oauth.token, obeys_plans=True),
    Route("/oauth/revoke", "POST", oauth.revoke),
    Route("/oauth/authorize", "GET", oauth.authorize),
    Route("/api/accounts/deviceauth/usercode", "POST", oauth.device_user_code),
    Route("/api/accounts/deviceauth/token", "POST", oauth.device_token),
    Route("/codex/device", "GET", oauth.device_page),
    Route("/_simulator/plan", "POST", control.plan, obeys_plans=True),
    Route("/_simulator/state", "GET", control.state, obeys_plans=True),
)
PRIVATE = Route(".*", "", backend.private)
NOT_FOUND = Route(".*", "", backend.not_found)


def find(head: Head) -> tuple[Route, str]:
    """Return a request's route, and its path as interpreted.

    A path that seems to be in one of the APIs but can be interpreted as outside of it is :data:`PRIVATE`.
    """
    path = path_of(head.target)
    if escapes(path):
        return PRIVATE, path
    resolved = readings(path)[1]
    for route in ROUTES:
        if route.matches(head.method, resolved):
            return route, resolved
    return (PRIVATE if is_below("/backend-api", resolved) else NOT_FOUND), resolved
