"""Who asks, by the bearer token of the request. For JSON; a browser signs in."""

from __future__ import annotations

import hmac

from flask import Response, g, request

from ocm_wsgi.errors import AdminOnly
from ocm_wsgi.protocol.http.bearer import bearer_token, refuse_api_key_fields
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.users.tokens import token_digest
from ocm_wsgi.users.user import ANYONE, User
from ocm_wsgi.wsgi.environ import client_fields


def asking_user(service: Service) -> User:
    """Give the user whose token came with the request; ``ANYONE`` where there are no users.

    :raises AuthenticationFailed: there is no token, or it is nobody's.
    """
    fields = client_fields(request.environ)
    refuse_api_key_fields(fields)
    user = ANYONE if service.users.is_open else service.users.authenticate(bearer_token(fields))
    g.request_log.user = user.name
    return user


def require_scraper(service: Service) -> None:
    """Let those pass who may read the metrics: with ``metrics_token``, and those who see all.

    :raises AuthenticationFailed: there is no token, or it is nobody's.
    :raises AdminOnly: the user may not.
    """
    wanted = service.config.metrics_token
    if wanted is not None and "Authorization" in request.headers:
        digest = token_digest(bearer_token(client_fields(request.environ)))
        if hmac.compare_digest(digest, token_digest(wanted.get_secret_value())):
            return
    if not sees_all(asking_user(service)):
        raise AdminOnly("The metrics are for admins.")


def uncached(response: Response) -> Response:
    """Have an answer that is one user's own kept nowhere on the way."""
    response.headers["Cache-Control"] = "no-store"
    return response
