"""The audit trail."""

from __future__ import annotations

from flask import Blueprint, request
from werkzeug.wrappers import Response

from ocm_wsgi.accounting import history
from ocm_wsgi.views.dashboard.blueprint import current_dashboard, page, require_admin


def add_pages(blueprint: Blueprint) -> None:
    """Add /audit."""
    blueprint.add_url_rule("/audit", "audit", show)


def show() -> Response:
    """Show a page of the audit trail."""
    require_admin()
    before = request.args.get("before", "")
    number = int(before) if before.isascii() and before.isdigit() and len(before) < 18 else None
    events, following = history.events(current_dashboard().service.database, number)
    return page("audit", events=events, following=following, is_first=number is None)
