"""The overview: what is left, whether it lasts, and who uses it."""

from __future__ import annotations

import time

from flask import Blueprint
from werkzeug.wrappers import Response

from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.reporting import dashboard
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.views.dashboard.blueprint import base_url, page, require_admin, see, this, viewer


def add_pages(blueprint: Blueprint) -> None:
    """Add the page, and the part of it that is fetched again and again."""
    blueprint.add_url_rule("/", "overview", show)
    blueprint.add_url_rule("/live", "live", show_live)


def show() -> Response:
    """The first page; for those who do not see all, their own usage."""
    if not sees_all(viewer()):
        return see("mine")
    service, now = this().service, time.time()
    used = dashboard.used(service.ledger, now)
    has_users = service.users.has_users
    is_empty = not used.total.month.turns
    return page(
        "overview",
        used=used,
        subscription=dashboard.subscription(service.window_history, DEFAULT_CREDENTIAL, now),
        health=dashboard.health(service.credentials),
        live=this().live.all(),
        now=now,
        has_users=has_users,
        is_empty=is_empty,
        base_url=base_url(),
    )


def show_live() -> Response:
    """The streams under way."""
    require_admin()
    return page("live", live=this().live.all(), now=time.time())
