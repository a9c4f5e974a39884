"""Responses of the API for web pages of other origins, where the owner allows some."""

from __future__ import annotations

from flask import Flask, Response, request

from ocm_wsgi.protocol.http.cors import preflight_fields, response_fields
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.protocol.http.targets import API_PREFIX
from ocm_wsgi.service import Service
from ocm_wsgi.views.responses import RelayedResponse


def init_app(app: Flask, service: Service) -> None:
    """Add the fields of CORS to every response of the API, errors included, if any origin is allowed."""
    allow_origins = service.config.allow_origins
    if not allow_origins:
        return

    def add_fields(response: Response) -> Response:
        if request.path.startswith(API_PREFIX):
            added = response_fields(request.environ.get("HTTP_ORIGIN"), allow_origins)
            if isinstance(response, RelayedResponse):
                response.added_fields += added
            else:
                response.headers.extend(added)
        return response

    app.after_request(add_fields)


def preflight_response(fields: Fields, service: Service) -> Response:
    """Return the response to a preflight request. It needs no token: browsers send none.

    :raises ForeignOrigin: the origin is not allowed.
    """
    response = Response(status=204, headers=preflight_fields(fields, service.config.allow_origins))
    del response.headers["Content-Type"]
    return response
