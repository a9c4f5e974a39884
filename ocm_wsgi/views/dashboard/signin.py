"""Signing in and out."""

from __future__ import annotations

from flask import Blueprint, g, request
from werkzeug.wrappers import Response

from ocm_wsgi.errors import AuthenticationFailed, SignInThrottled
from ocm_wsgi.users.sessions import KNOWN_SECONDS
from ocm_wsgi.users.user import ANYONE
from ocm_wsgi.views.dashboard.blueprint import (
    KNOWN_COOKIE,
    SESSION_COOKIE,
    client_address,
    current_dashboard,
    page,
    redirect_to,
    set_cookie,
    viewer,
)


def add_pages(blueprint: Blueprint) -> None:
    """Add /sign-in and /sign-out."""
    blueprint.add_url_rule("/sign-in", "sign_in", sign_in, methods=["GET", "POST"])
    blueprint.add_url_rule("/sign-out", "sign_out", sign_out, methods=["POST"])


def sign_in() -> Response:
    """Show the form for a bearer token, or sign in with one."""
    if g.viewer is not None:
        return redirect_to()
    if request.method == "GET":
        return page("signin", problem=None)
    dashboard, bearer_token = current_dashboard(), request.form.get("bearer_token", "").strip()
    known_user = dashboard.sessions.known_user(request.cookies.get(KNOWN_COOKIE, ""))
    try:
        user = dashboard.sign_ins.sign_in(bearer_token, client_address(), known_user=known_user)
    except AuthenticationFailed as failure:
        return page("signin", 403, problem=failure.message)
    except SignInThrottled as failure:
        refusal = page("signin", 429, problem=failure.message)
        refusal.headers["Retry-After"] = str(failure.retry_after_seconds)
        return refusal
    response = redirect_to()
    set_cookie(response, SESSION_COOKIE, dashboard.sessions.begin(user, bearer_token))
    set_cookie(response, KNOWN_COOKIE, dashboard.sessions.known_browser(user), lifetime_seconds=KNOWN_SECONDS)
    return response


def sign_out() -> Response:
    """End the session, so that copies of its cookie are worth nothing, too."""
    if viewer() is not ANYONE:
        current_dashboard().sessions.end(g.cookie)
        current_dashboard().sign_ins.sign_out(viewer(), client_address())
    response = redirect_to("sign-in")
    set_cookie(response, SESSION_COOKIE, None)
    return response
