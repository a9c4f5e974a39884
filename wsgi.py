"""The WSGI entry point of a checkout: ``gunicorn wsgi:app``."""

from ocm_wsgi.wsgi import app

__all__ = ["app"]
