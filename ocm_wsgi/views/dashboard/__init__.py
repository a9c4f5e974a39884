"""The dashboard at ``/ocm/``. Pages are rendered on the server and complete without JavaScript."""

from __future__ import annotations

from flask import Flask

from ocm_wsgi.service import Service
from ocm_wsgi.telemetry.live_requests import LiveRequests
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.sessions import Sessions
from ocm_wsgi.users.sign_ins import SignIns
from ocm_wsgi.views.dashboard import audit, live, mine, overview, signin, turns, users
from ocm_wsgi.views.dashboard.blueprint import Dashboard, dashboard_blueprint

__all__ = ["init_app"]


def init_app(app: Flask, service: Service) -> None:
    """Register the dashboard, and track the requests in progress for it."""
    requests = LiveRequests(service.config.state_path / "live")
    app.extensions["ocm_dashboard"] = Dashboard(
        service=service,
        sessions=Sessions(service.config.state_path, service.users, service.database),
        sign_ins=SignIns(service.database, service.users),
        accounts=Accounts(service.config.users, service.database),
        live=requests,
    )
    blueprint = dashboard_blueprint()
    for pages in (overview, turns, users, mine, audit, signin):
        pages.add_pages(blueprint)
    app.register_blueprint(blueprint)
    live.init_app(app, requests)
