"""The WSGI entry point: ``gunicorn wsgi:app``."""

from ocm_wsgi.app import create_app

app = create_app()
