"""What all pages share: who looks at them, forms that no other site can send, and what browsers are told."""

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
from ocm_wsgi.users.sessions import LIFETIME_SECONDS, Sessions, SignIns
from ocm_wsgi.users.user import ANYONE, User
from ocm_wsgi.views.dashboard import texts

#: Of who is signed in, and of who is not. Two, as a browser that comes from another site sends neither, and what it
#: is given then must not take the place of the first.
SESSION_COOKIE = "ocm_session"
VISIT_COOKIE = "ocm_visit"

_STATIC = Path(__file__).resolve().parents[1] / "static"
_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; connect-src 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Without any, browsers would send forms from the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
#: Served to whoever is not signed in, too.
_OPEN_PAGES = frozenset({"dashboard.sign_in", "dashboard.static", "dashboard.bare"})


@dataclass(frozen=True)
class Dashboard:
    """What the pages work with."""

    service: Service
    sessions: Sessions
    sign_ins: SignIns
    accounts: Accounts
    live: LiveRequests


def dashboard_blueprint() -> Blueprint:
    """Make the blueprint, without its pages."""
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


def this() -> Dashboard:
    """Give what the pages work with."""
    dashboard: Dashboard = current_app.extensions["ocm_dashboard"]
    return dashboard


def viewer() -> User:
    """Give who looks; ``ANYONE`` where there are no users."""
    user: User = g.viewer
    return user


def actor() -> str:
    """Who does it, in the audit trail."""
    return viewer().name or "anyone"


def require_admin() -> None:
    """Keep everybody else out.

    :raises AdminOnly: the viewer does not see all.
    """
    if not sees_all(viewer()):
        raise AdminOnly("This page is for admins.")


def link(page: str = "") -> str:
    """Give the address of a page, relative to the one that is shown: so it holds below any path of a proxy's."""
    depth = request.path.count("/") - 2
    return "../" * depth + page or "./"


def see(page: str = "") -> BaseResponse:
    """Send the browser to a page, with GET."""
    return redirect(link(page), 303)


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Make a page. Nothing on the way keeps it."""
    response = make_response(render_template(f"dashboard/{template}.html", **values), status)
    response.headers["Cache-Control"] = "no-store"
    return response


def is_secure() -> bool:
    """Whether the browser has come over TLS, be it as far as a proxy on this machine."""
    return request.is_secure or (_is_local() and request.headers.get("X-Forwarded-Proto", "") == "https")


def address() -> str:
    """Where the browser is, as a proxy on this machine tells, else the peer."""
    told = request.headers.get("X-Forwarded-For", "") if _is_local() else ""
    return (told.rpartition(",")[2].strip() or request.remote_addr or "")[:64]


def base_url() -> str:
    """Give the API's address as the browser's way here suggests it."""
    prefix = request.headers.get("X-Forwarded-Prefix", "").rstrip("/") if _is_local() else ""
    return f"{'https' if is_secure() else 'http'}://{request.host}{prefix}/v1"


def set_cookie(response: BaseResponse, name: str, content: str | None) -> None:
    """Set a cookie, or take it away. Without a path it is one for this folder, whatever a proxy puts before it."""
    response.set_cookie(
        name,
        content or "",
        max_age=LIFETIME_SECONDS if content else 0,
        path=None,
        secure=is_secure(),
        httponly=True,
        samesite="Strict",
    )


def _is_local() -> bool:
    """Whether the peer is on this machine, as our proxy is; a Unix socket shows no address."""
    return request.remote_addr in (None, "", "127.0.0.1", "::1", "::ffff:127.0.0.1")


def _identify() -> BaseResponse | None:
    """Find out who looks, and refuse forms that were not made for their browser."""
    dashboard = this()
    if request.endpoint in ("dashboard.static", "dashboard.bare"):
        return None
    g.cookie = g.new_visit = None
    try:
        g.viewer = _viewer(dashboard)
    except AuthenticationFailed:
        g.viewer = None
    else:
        g.note.user = g.viewer.name
    if g.cookie is None:
        visit = request.cookies.get(VISIT_COOKIE, "")
        if not dashboard.sessions.is_ours(visit):
            visit = g.new_visit = dashboard.sessions.visit()
        g.cookie = visit
    if request.method == "POST" and not dashboard.sessions.is_form_token(g.cookie, request.form.get("form_token", "")):
        raise BadRequest("This form has grown old, or comes from elsewhere. Go back, reload the page and try again.")
    if g.viewer is None and request.endpoint not in _OPEN_PAGES:
        return see("sign-in")
    return None


def _viewer(dashboard: Dashboard) -> User:
    if dashboard.service.users.is_open:
        return ANYONE
    cookie = request.cookies.get(SESSION_COOKIE, "")
    user = dashboard.sessions.user(cookie)
    g.cookie = cookie
    return user


def _protect(response: Response) -> Response:
    response.headers.update(_FIELDS)
    if g.get("new_visit"):
        set_cookie(response, VISIT_COOKIE, g.new_visit)
    return response


def _on_error(error: OcmError) -> Response:
    g.note.end = error.code or error.error_type
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
        "form_token": this().sessions.form_token(g.cookie) if g.get("cookie") else "",
    }


def _asset(name: str) -> str:
    """Give the address of a static file, another one whenever its content is another."""
    version = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:8]
    return link(f"static/{name}?v={version}")
