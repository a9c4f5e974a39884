"""The service and the request that are current."""

from __future__ import annotations

from typing import cast

from flask import Request, current_app, request
from werkzeug.local import LocalProxy

from ocm_wsgi.service import Service


def current_service() -> Service:
    """Return the service of the application that handles the current request."""
    service: Service = current_app.extensions["ocm"]
    return service


def current_request() -> Request:
    """Return the current request itself. Each access to an attribute of Flask's ``request`` looks it up again."""
    return cast("LocalProxy[Request]", request)._get_current_object()
