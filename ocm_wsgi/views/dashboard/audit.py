"""Who did what."""

from __future__ import annotations

from flask import Blueprint, request
from werkzeug.wrappers import Response

from ocm_wsgi.accounting import history
from ocm_wsgi.views.dashboard.blueprint import page, require_admin, this


def add_pages(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/audit", "audit", show)


def show() -> Response:
    """A page of the audit trail."""
    require_admin()
    before = request.args.get("before", "")
    number = int(before) if before.isascii() and before.isdigit() and len(before) < 18 else None
    events, following = history.events(this().service.database, number)
    return page("audit", events=events, following=following, is_first=number is None)
