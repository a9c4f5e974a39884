"""A user's own usage, without that of others or the owner's quota."""

from __future__ import annotations

import time

from flask import Blueprint
from werkzeug.wrappers import Response

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.history import TurnFilter
from ocm_wsgi.reporting import dashboard
from ocm_wsgi.reporting.client_setup import client_configuration
from ocm_wsgi.views.dashboard.blueprint import base_url, current_dashboard, page, viewer


def add_pages(blueprint: Blueprint) -> None:
    """Add /mine."""
    blueprint.add_url_rule("/mine", "mine", show)


def show() -> Response:
    """Show how much of their limits the viewer has used, and their latest turns."""
    service, user = current_dashboard().service, viewer()
    return page(
        "mine",
        user=user,
        uses=service.admission.limit_usage(user),
        usage=dashboard.usage(service.ledger, time.time(), user.name),
        recent=history.turns(service.database, TurnFilter(user=user.name), 10).turns,
        client=client_configuration(base_url()),
    )
