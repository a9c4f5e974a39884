"""The WSGI application, for servers: ``gunicorn ocm_wsgi.wsgi:app -c python:ocm_wsgi.gunicorn_conf``."""

from __future__ import annotations

from ocm_wsgi.app import create_app

__all__ = ["app"]

app = create_app()
