"""Signing in and out."""

from __future__ import annotations

from flask import Blueprint, g, request
from werkzeug.wrappers import Response

from ocm_wsgi.errors import AuthenticationFailed, SignInThrottled
from ocm_wsgi.users.user import ANYONE
from ocm_wsgi.views.dashboard.blueprint import (
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
    bearer_token = request.form.get("bearer_token", "").strip()
    try:
        user = current_dashboard().sign_ins.sign_in(bearer_token, client_address())
    except AuthenticationFailed as failure:
        return page("signin", 403, problem=failure.message)
    except SignInThrottled as failure:
        refusal = page("signin", 429, problem=failure.message)
        refusal.headers["Retry-After"] = str(failure.retry_after_seconds)
        return refusal
    response = redirect_to()
    set_cookie(response, SESSION_COOKIE, current_dashboard().sessions.begin(user, bearer_token))
    return response


def sign_out() -> Response:
    """End the session in this browser."""
    if viewer() is not ANYONE:
        current_dashboard().sign_ins.sign_out(viewer(), client_address())
    response = redirect_to("sign-in")
    set_cookie(response, SESSION_COOKIE, None)
    return response
