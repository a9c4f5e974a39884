"""What all pages share: the signed-in viewer, protection against forged forms, and security headers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, g, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from ocm_wsgi.errors import AdminOnly, AuthenticationFailed, BadRequest, OcmError
from ocm_wsgi.reporting.status import sees_all
from ocm_wsgi.service import Service
from ocm_wsgi.telemetry.live_requests import LiveRequests
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.sessions import LIFETIME_SECONDS, Sessions
from ocm_wsgi.users.sign_ins import SignIns
from ocm_wsgi.users.user import ANYONE, User
from ocm_wsgi.views.dashboard import texts
from ocm_wsgi.views.dashboard.forms import read_form

#: The cookies of a signed-in browser and of one that is not. There are two, because a browser that follows a link from
#: another site sends neither, and the cookie it gets then must not replace that of its session.
SESSION_COOKIE = "ocm_session"
VISIT_COOKIE = "ocm_visit"
#: The cookie of a browser in which a user has signed in before, who is therefore not kept out by others' failures.
KNOWN_COOKIE = "ocm_known"

_STATIC = Path(__file__).resolve().parents[1] / "static"
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; connect-src 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Without a referrer, browsers would send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Served without signing in, too.
_PUBLIC_ENDPOINTS = frozenset({"dashboard.sign_in", "dashboard.static", "dashboard.bare"})


@dataclass(frozen=True)
class Dashboard:
    """Everything that the pages need."""

    service: Service
    sessions: Sessions
    sign_ins: SignIns
    accounts: Accounts
    live: LiveRequests


def dashboard_blueprint() -> Blueprint:
    """Return the blueprint, without its pages."""
    blueprint = Blueprint(
        "dashboard", __name__, url_prefix="/ocm", static_folder=str(_STATIC), static_url_path="/static"
    )
    blueprint.before_request(_identify)
    blueprint.after_request(_protect)
    blueprint.register_error_handler(OcmError, _on_error)
    blueprint.add_url_rule("", "bare", lambda: redirect("ocm/"))
    blueprint.context_processor(_context)
    texts.add_filters(blueprint)
    return blueprint


def current_dashboard() -> Dashboard:
    """Return the dashboard of the current application."""
    dashboard: Dashboard = current_app.extensions["ocm_dashboard"]
    return dashboard


def viewer() -> User:
    """Return the user who views the page; ``ANYONE`` if there are no users."""
    user: User = g.viewer
    return user


def actor() -> str:
    """Return the viewer's name for the audit trail."""
    return viewer().name or "anyone"


def require_admin() -> None:
    """Refuse viewers who are not admins.

    :raises AdminOnly: the viewer does not see everything.
    """
    if not sees_all(viewer()):
        raise AdminOnly("This page is for admins.")


def link(page: str = "") -> str:
    """Return the URL of a page relative to the current one, so that it is right below any path prefix of a proxy."""
    depth = request.path.count("/") - 2
    return "../" * depth + page or "./"


def redirect_to(page: str = "") -> BaseResponse:
    """Redirect the browser to a page, with GET."""
    return redirect(link(page), 303)


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Render a page that no cache may store."""
    response = make_response(render_template(f"dashboard/{template}.html", **values), status)
    response.headers["Cache-Control"] = "no-store"
    return response


def is_secure() -> bool:
    """Return whether the browser uses TLS, to this service or to a proxy on this machine."""
    return request.is_secure or (_is_local() and request.headers.get("X-Forwarded-Proto", "") == "https")


def client_address() -> str:
    """Return the browser's address as reported by a proxy on this machine, or else that of the peer."""
    reported = request.headers.get("X-Forwarded-For", "") if _is_local() else ""
    return (reported.rpartition(",")[2].strip() or request.remote_addr or "")[:64]


def base_url() -> str:
    """Return the API's URL, derived from the one that the browser used."""
    prefix = request.headers.get("X-Forwarded-Prefix", "").rstrip("/") if _is_local() else ""
    return f"{'https' if is_secure() else 'http'}://{request.host}{prefix}/v1"


def set_cookie(
    response: BaseResponse, name: str, content: str | None, *, lifetime_seconds: int = LIFETIME_SECONDS
) -> None:
    """Set a cookie, or delete it. It has no path, so it applies to this folder below any path prefix of a proxy."""
    response.set_cookie(
        name,
        content or "",
        max_age=lifetime_seconds if content else 0,
        path=None,
        secure=is_secure(),
        httponly=True,
        samesite="Strict",
    )


def _is_local() -> bool:
    """Return whether the peer is on this machine, as our proxy is; a peer on a Unix socket has no address."""
    return request.remote_addr in (None, "", "127.0.0.1", "::1", "::ffff:127.0.0.1")


def _identify() -> BaseResponse | None:
    """Identify the viewer, and refuse forms that were not rendered for their browser."""
    dashboard = current_dashboard()
    if request.endpoint in ("dashboard.static", "dashboard.bare"):
        return None
    g.cookie = g.new_visit = None
    try:
        g.viewer = _viewer(dashboard)
    except AuthenticationFailed:
        g.viewer = None
    else:
        g.request_log.user = g.viewer.name
    if g.cookie is None:
        visit = request.cookies.get(VISIT_COOKIE, "")
        if not dashboard.sessions.is_ours(visit):
            visit = g.new_visit = dashboard.sessions.visit()
        g.cookie = visit
    if request.method == "POST" and not dashboard.sessions.is_form_token(g.cookie, read_form().get("form_token", "")):
        raise BadRequest("This form has expired. Reload the page and try again.")
    if g.viewer is None and request.endpoint not in _PUBLIC_ENDPOINTS:
        return redirect_to("sign-in")
    return None


def _viewer(dashboard: Dashboard) -> User:
    if dashboard.service.users.is_open:
        return ANYONE
    cookie = request.cookies.get(SESSION_COOKIE, "")
    user = dashboard.sessions.user(cookie)
    g.cookie = cookie
    return user


def _protect(response: Response) -> Response:
    response.headers.update(_SECURITY_HEADERS)
    if g.get("new_visit"):
        set_cookie(response, VISIT_COOKIE, g.new_visit)
    return response


def _on_error(error: OcmError) -> Response:
    g.request_log.end = error.code or error.error_type
    if error.detail:
        current_app.logger.warning("%s: %s", error.message, error.detail)
    response = page("error", error.status, error=error)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _context() -> dict[str, Any]:
    user: User | None = g.get("viewer")
    return {
        "link": link,
        "asset": _asset,
        "viewer": user,
        "is_open": user is ANYONE,
        "sees_all": user is not None and sees_all(user),
        "form_token": current_dashboard().sessions.form_token(g.cookie) if g.get("cookie") else "",
    }


def _asset(name: str) -> str:
    """Return the URL of a static file; it changes whenever the content does."""
    version = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:8]
    return link(f"static/{name}?v={version}")
