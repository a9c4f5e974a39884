"""The overview: how much is left, whether it will last, and who uses it."""

from __future__ import annotations

import time

from flask import Blueprint
from werkzeug.wrappers import Response

from ocm_wsgi.reporting import dashboard
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.views.dashboard.blueprint import base_url, current_dashboard, page, redirect_to, require_admin, viewer


def add_pages(blueprint: Blueprint) -> None:
    """Add the page, and the part of it that the browser refreshes."""
    blueprint.add_url_rule("/", "overview", show)
    blueprint.add_url_rule("/live", "live", show_live)


def show() -> Response:
    """Show the overview; viewers who are not admins are redirected to their own usage."""
    if not sees_all(viewer()):
        return redirect_to("mine")
    service, now = current_dashboard().service, time.time()
    usage = dashboard.usage(service.ledger, now)
    has_users = service.users.has_users
    is_empty = not usage.total.month.turns
    return page(
        "overview",
        usage=usage,
        subscription=dashboard.subscriptions(service.window_history, list(service.accounts.by_tag), now),
        health=dashboard.health_of_all({account.tag: account.credentials for account in service.accounts.all()}),
        live=current_dashboard().live.all(),
        now=now,
        has_users=has_users,
        is_empty=is_empty,
        base_url=base_url(),
    )


def show_live() -> Response:
    """Show the requests in progress."""
    require_admin()
    return page("live", live=current_dashboard().live.all(), now=time.time())
