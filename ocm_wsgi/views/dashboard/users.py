"""The pages for managing users."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone

from flask import Blueprint, request
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from ocm_wsgi.admission.measurability import credential_path_of, require_measurable_for_owner
from ocm_wsgi.config import times
from ocm_wsgi.errors import NotFound, UserRejected
from ocm_wsgi.quota import limits
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.reporting import dashboard
from ocm_wsgi.reporting.client_setup import client_configuration
from ocm_wsgi.reporting.status import user_state
from ocm_wsgi.users.accounts import Account
from ocm_wsgi.users.user import User
from ocm_wsgi.views.dashboard.blueprint import (
    actor,
    base_url,
    current_dashboard,
    page,
    redirect_to,
    require_admin,
    viewer,
)

_MAX_CONCURRENT = 10_000


def add_pages(blueprint: Blueprint) -> None:
    """Add the list, each user's page, and the confirmation pages."""
    blueprint.add_url_rule("/users", "users", show_all)
    blueprint.add_url_rule("/users", "add_user", add, methods=["POST"])
    blueprint.add_url_rule("/users/<name>", "user", show)
    blueprint.add_url_rule("/users/<name>", "change_user", change, methods=["POST"])
    blueprint.add_url_rule("/users/<name>/access", "user_access", set_access, methods=["POST"])
    blueprint.add_url_rule("/users/<name>/rotate", "rotate_user", rotate, methods=["GET", "POST"])
    blueprint.add_url_rule("/users/<name>/remove", "remove_user", remove, methods=["GET", "POST"])


def show_all() -> Response:
    """Show all users, and a form to add one."""
    require_admin()
    return _list(MultiDict(), None)


def add() -> Response:
    """Add a user and show their token, only this once."""
    require_admin()
    form = request.form
    try:
        user = _changed(User(form.get("name", "").strip()), form)
        bearer_token = current_dashboard().accounts.add(user, actor=actor())
    except UserRejected as refusal:
        return _list(form, refusal.message, 400)
    return _token_page(user.name, bearer_token, is_new=True)


def show(name: str) -> Response:
    """Show one user, with their permissions and usage."""
    require_admin()
    return _user_page(_account(name), None, None)


def change(name: str) -> Response:
    """Change a user's permissions."""
    require_admin()
    account = _account(name)
    try:
        current_dashboard().accounts.update(name, lambda user: _changed(user, request.form), actor=actor())
    except UserRejected as refusal:
        return _user_page(account, request.form, refusal.message, 400)
    return redirect_to(f"users/{name}?changed=1")


def set_access(name: str) -> Response:
    """Disable a user, or enable them again."""
    require_admin()
    _account(name)
    is_disabled = request.form.get("disabled") == "1"
    current_dashboard().accounts.update(name, lambda user: replace(user, disabled=is_disabled), actor=actor())
    return redirect_to(f"users/{name}?changed=1")


def rotate(name: str) -> Response:
    """Ask for confirmation, then give a user a new token and show it, only this once."""
    require_admin()
    account = _account(name)
    if request.method == "GET":
        return page("confirm", name=name, action="rotate", is_self=account.user.name == viewer().name)
    return _token_page(name, current_dashboard().accounts.rotate_token(name, actor=actor()), is_new=False)


def remove(name: str) -> Response:
    """Ask for confirmation, then remove a user."""
    require_admin()
    account = _account(name)
    if request.method == "GET":
        return page("confirm", name=name, action="remove", is_self=account.user.name == viewer().name)
    current_dashboard().accounts.remove(name, actor=actor())
    return redirect_to("users")


def _account(name: str) -> Account:
    try:
        return current_dashboard().accounts.show(name)
    except UserRejected as exc:
        raise NotFound(exc.message) from exc


def _list(form: MultiDict[str, str], problem: str | None, status: int = 200) -> Response:
    service = current_dashboard().service
    now = time.time()
    rows = [(account.user, user_state(account.user, now)) for account in current_dashboard().accounts.all()]
    usage = {user.name: user for user in dashboard.usage(service.ledger, now).users}
    return page("users", status, rows=rows, usage=usage, form=form, problem=problem)


def _user_page(account: Account, form: MultiDict[str, str] | None, problem: str | None, status: int = 200) -> Response:
    service, user = current_dashboard().service, account.user
    return page(
        "user",
        status,
        account=account,
        user=user,
        state=user_state(user, time.time()),
        uses=service.admission.limit_usage(user),
        usage=dashboard.usage(service.ledger, time.time(), user.name),
        form=form or _form(user),
        problem=problem,
        is_changed="changed" in request.args,
        client=client_configuration(base_url()),
    )


def _token_page(name: str, bearer_token: str, *, is_new: bool) -> Response:
    client = client_configuration(base_url(), bearer_token)
    return page("token", name=name, bearer_token=bearer_token, client=client, is_new=is_new)


def _form(user: User) -> MultiDict[str, str]:
    """Return the form's fields for a user."""
    expires = user.expires_at
    fields = {
        "limits": "\n".join(str(limit) for limit in user.limits),
        "models": "\n".join(user.models),
        "max_concurrent": "" if user.max_concurrent is None else str(user.max_concurrent),
        "expires_on": "" if expires is None else datetime.fromtimestamp(expires, timezone.utc).strftime("%Y-%m-%d"),
    }
    return MultiDict({**fields, "admin": "1"} if user.admin else fields)


def _changed(user: User, form: MultiDict[str, str]) -> User:
    """Return a user as changed in a form.

    :raises UserRejected: with a sentence that says what is wrong.
    """
    try:
        parsed_limits = tuple(limits.parse(line) for line in _lines(form.get("limits", "")))
    except ValueError as exc:
        raise UserRejected(str(exc)) from exc
    config = current_dashboard().service.config
    require_measurable_for_owner(parsed_limits, credential_path_of(config, user.credential))
    return replace(
        user,
        admin=form.get("admin") == "1",
        limits=parsed_limits,
        models=tuple(_lines(form.get("models", ""))),
        max_concurrent=_number(form.get("max_concurrent", "").strip()),
        expires_at=_end_of(form.get("expires_on", "").strip(), user.expires_at),
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_CONCURRENT):
        raise UserRejected(f"Concurrent turns must be a whole number from 1 to {_MAX_CONCURRENT}, or empty.")
    return int(text)


def _end_of(text: str, before: float | None) -> float | None:
    """Return the start of a day in UTC. An unchanged day keeps its time of day."""
    if not text:
        return None
    try:
        day = times.parse_day(text)
    except ValueError as exc:
        raise UserRejected("The end of access must be a date such as 2027-01-31, or empty.") from exc
    return before if before is not None and day <= before < day + DAY_SECONDS else day
