"""Status and usage as JSON, and as the Codex client requests them."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, Response, jsonify, request

from ocm_wsgi.errors import CredentialError
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.reporting import codex_usage, usage_query
from ocm_wsgi.reporting.status import StatusReport, sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from ocm_wsgi.views.auth import requesting_user, uncached
from ocm_wsgi.views.current import current_service


def init_app(app: Flask) -> None:
    """Register ``/ocm/v1/status``, ``/ocm/v1/usage`` and the paths where Codex requests its usage."""
    app.add_url_rule("/ocm/v1/status", "status", show_status)
    app.add_url_rule("/ocm/v1/usage", "usage", show_usage)
    # Which of the two the client requests depends on its base URL.
    for path in ("/api/codex/usage", "/backend-api/wham/usage"):
        app.add_url_rule(path, "codex_usage", show_codex_usage)


def show_status() -> Response:
    """Return the status of the requesting user, and of the service if they are an admin."""
    service = current_service()
    report = StatusReport(
        accounts=Accounts(service.config.users, service.database),
        admission=service.admission,
        upstream_accounts=service.accounts,
        ledger=service.ledger,
        window_history=service.window_history,
    )
    return uncached(jsonify(report.for_user(requesting_user(service))))


def show_usage() -> Response:
    """Return the usage of the requesting user, or of any user if they are an admin."""
    service = current_service()
    query = usage_query.parse(request.args.to_dict(flat=False), requesting_user(service))
    return uncached(jsonify(usage_query.run(service.ledger, query)))


def show_codex_usage() -> Response:
    """Return the usage in the format of the Codex client."""
    service = current_service()
    user, now = requesting_user(service), time.time()
    if sees_all(user):
        return uncached(jsonify(_subscription(service, user, now)))
    return uncached(jsonify(codex_usage.of_user(service.admission.limit_usage(user), now)))


def _subscription(service: Service, user: User, now: float) -> dict[str, Any]:
    pool = service.pools.of(user)
    if pool is not None:
        return codex_usage.of_pool(service.pools.figures(pool), now)
    account = service.accounts.of(user)
    quota = service.ledger.rate_limits(account.tag)
    try:
        plan_type = account.credentials.peek().plan_type
    except CredentialError:
        plan_type = None
    return codex_usage.of_subscription(RateLimits() if quota is None else quota.limits, plan_type, now)
