"""Authentication of API requests by their bearer token. Browsers sign in to the dashboard instead."""

from __future__ import annotations

import hmac

from flask import Response, g, request

from ocm_wsgi.errors import AdminOnly
from ocm_wsgi.gateway.environ import client_fields
from ocm_wsgi.protocol.http.bearer import bearer_token, refuse_api_key_fields
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.users.tokens import token_digest
from ocm_wsgi.users.user import ANYONE, User


def authenticate(service: Service, fields: Fields) -> User:
    """Return the user whose bearer token is among the fields; ``ANYONE`` if there are no users.

    :raises AuthenticationFailed: there is no token, or it is unknown.
    """
    return ANYONE if service.users.is_open else service.users.authenticate(bearer_token(fields))


def requesting_user(service: Service) -> User:
    """Return the user who sent the current request; ``ANYONE`` if there are no users.

    :raises AuthenticationFailed: there is no token, or it is unknown.
    """
    fields = client_fields(request.environ)
    refuse_api_key_fields(fields)
    user = authenticate(service, fields)
    g.request_log.user = user.name
    return user


def require_scraper(service: Service) -> None:
    """Refuse requests that may not read the metrics: only admins and holders of ``metrics_token`` may.

    :raises AuthenticationFailed: there is no token, or it is unknown.
    :raises AdminOnly: the user is not an admin.
    """
    metrics_token = service.config.metrics_token
    if metrics_token is not None and "Authorization" in request.headers:
        digest = token_digest(bearer_token(client_fields(request.environ)))
        if hmac.compare_digest(digest, token_digest(metrics_token.get_secret_value())):
            return
    if not sees_all(requesting_user(service)):
        raise AdminOnly("The metrics are for admins.")


def uncached(response: Response) -> Response:
    """Mark a response as not to be stored by any cache: it is for one user only."""
    response.headers["Cache-Control"] = "no-store"
    return response
