"""``/ocm/v1/check/*``: endpoints with which ``ocm check --url`` tests the proxies between itself and the service.

They require a ticket (:mod:`ocm_wsgi.checks.tickets`), and are 404 without one. Only ``websocket`` goes upstream, and
every turn over it is refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

from flask import Flask, Response, g, jsonify, request

from ocm_wsgi.checks.tickets import is_valid
from ocm_wsgi.errors import AuthenticationFailed, BodyTooLarge, NotFound
from ocm_wsgi.gateway.environ import client_fields
from ocm_wsgi.ownership.access import require_access
from ocm_wsgi.pools.dispatch import SingleDispatch
from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET
from ocm_wsgi.protocol.http.bearer import bearer_token
from ocm_wsgi.protocol.http.targets import API_PREFIX, api_target
from ocm_wsgi.protocol.websocket.handshake import ENDPOINT
from ocm_wsgi.users.user import User
from ocm_wsgi.views.current import current_service
from ocm_wsgi.views.websocket import open_websocket

#: The fields whose values are returned; of all others, only the names are.
ECHOED_FIELDS = frozenset(
    {
        "session_id",
        "conversation_id",
        "thread_id",
        "upgrade",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    }
)
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_SILENCE_SECONDS = 300
FIRST_PAUSE_SECONDS = 1.0
_BLOCK_SIZE = 64 * 1024


def init_app(app: Flask) -> None:
    """Register the four endpoints."""
    # Werkzeug has separate rules for WebSocket requests.
    for is_upgrade, suffix in ((False, ""), (True, "_upgrade")):
        for name, view in (("fields", fields), ("websocket", websocket)):
            target = f"/ocm/v1/check/{name}"
            app.add_url_rule(target, f"check_{name}{suffix}", view, methods=["GET"], websocket=is_upgrade)
    app.add_url_rule("/ocm/v1/check/body", "check_body", body, methods=["POST"])
    app.add_url_rule("/ocm/v1/check/stream", "check_stream", stream)


def fields() -> Response:
    """Return which fields arrived, and with which version of HTTP."""
    _require_ticket()
    arrived = [(name.lower(), value) for name, value in client_fields(request.environ)]
    return jsonify(
        {
            "names": sorted({name for name, _ in arrived}),
            "protocol": request.environ.get("SERVER_PROTOCOL", ""),
            "values": {name: value for name, value in arrived if name in ECHOED_FIELDS},
        }
    )


def body() -> Response:
    """Return how many bytes of a body arrived."""
    _require_ticket()
    size = 0
    while piece := request.stream.read(_BLOCK_SIZE):
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(f"A check sends at most {MAX_BODY_BYTES} bytes.")
    return jsonify({"size": size})


def stream() -> Response:
    """Send one event, another after a second, and a last one after a further ``silence`` seconds."""
    _require_ticket()
    silence_seconds = min(request.args.get("silence", 0.0, type=float), MAX_SILENCE_SECONDS)
    return Response(_events([0.0, FIRST_PAUSE_SECONDS, max(silence_seconds, 0.0)]), mimetype="text/event-stream")


def websocket() -> Response:
    """Open a WebSocket to OpenAI, over which every turn is refused."""
    _require_ticket()
    service = current_service()
    target = api_target(API_PREFIX + ENDPOINT)
    dispatch = SingleDispatch(service.accounts.first)
    endpoint = service.endpoints[dispatch.mode].find(WEBSOCKET, target.path, is_admin=False)
    access = require_access(service.owners, "", endpoint, target.path, sees_all=False, is_stored=False)
    fields = client_fields(request.environ)
    return open_websocket(service, dispatch, access, _refuse, target, fields, g.request_log)


def _refuse() -> User:
    raise AuthenticationFailed("The WebSocket of a check does not allow turns.")


def _events(pauses: list[float]) -> Iterator[bytes]:
    for number, pause in enumerate(pauses):
        threading.Event().wait(pause)
        yield f"data: {json.dumps({'event': number})}\n\n".encode()


def _require_ticket() -> None:
    service = current_service()
    try:
        ticket = bearer_token(client_fields(request.environ))
    except AuthenticationFailed:
        ticket = ""
    if not is_valid(service.config.state_path, ticket):
        raise NotFound("There is nothing here: the API's paths start with /v1/.")
