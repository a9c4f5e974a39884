"""The service behind the current application."""

from __future__ import annotations

from flask import current_app

from ocm_wsgi.service import Service


def current_service() -> Service:
    """Return the service of the application that handles the current request."""
    service: Service = current_app.extensions["ocm"]
    return service
