"""The application factory."""

from __future__ import annotations

import atexit

from flask import Flask

from ocm_wsgi.config import Config, current
from ocm_wsgi.service import Service
from ocm_wsgi.telemetry.logs import configure_logging
from ocm_wsgi.views import (
    check_endpoints,
    cors,
    dashboard,
    errors,
    health,
    metrics,
    open_mode,
    proxy,
    request_log,
    status,
)
from ocm_wsgi.views.application import Application


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI application.

    :param config: the configuration to use; by default it is read from the file and the environment, and if it has
        problems, the process prints them all and exits.
    """
    config = current.config() if config is None else config
    configure_logging(config.log_format)
    app = Application("ocm_wsgi", static_folder=None, template_folder="views/templates")
    service = Service.from_config(config)
    app.extensions["ocm"] = service
    atexit.register(service.close)
    request_log.init_app(app)
    errors.init_app(app)
    cors.init_app(app, service)
    open_mode.init_app(app, service)
    proxy.init_app(app)
    check_endpoints.init_app(app)
    metrics.init_app(app, service)
    status.init_app(app)
    health.init_app(app, service)
    dashboard.init_app(app, service)
    return app
