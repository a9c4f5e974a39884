"""Keeps web pages away from a service without users, which serves everyone who can connect."""

from __future__ import annotations

from flask import Flask, request

from ocm_wsgi.config import Config
from ocm_wsgi.errors import ForeignOrigin, UntrustedHost
from ocm_wsgi.gateway.environ import Environ, client_fields, local_address
from ocm_wsgi.protocol.http.browsers import require_own_host, require_own_origin
from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.service import Service

# These reveal and change nothing, and those who ask may know the service by another name.
_PUBLIC_PATHS = ("/ocm/healthz", "/ocm/readyz", "/ocm/v1/check/")


def init_app(app: Flask, service: Service) -> None:
    """Check each request, before any view and whatever its path, while there are no users."""

    def check() -> None:
        if service.users.is_known_closed or request.path.startswith(_PUBLIC_PATHS):
            return
        try:
            _require_own(service.config, request.environ, client_fields(request.environ))
        except (ForeignOrigin, UntrustedHost):
            # Asked last, as it takes a query.
            if service.users.is_open:
                raise

    app.before_request(check)


def _require_own(config: Config, environ: Environ, fields: Fields) -> None:
    listens_on = (config.listen, local_address(environ))
    require_own_host(fields, listens_on=listens_on, allow_origins=config.allow_origins)
    require_own_origin(fields, allow_origins=config.allow_origins)
