"""gunicorn's settings for ``gunicorn wsgi:app`` in this folder: those of the package."""

from ocm_wsgi.gunicorn_conf import *  # noqa: F403 - gunicorn takes what it knows and ignores the rest
