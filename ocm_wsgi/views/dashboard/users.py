"""Managing users."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone

from flask import Blueprint, request
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from ocm_wsgi.accounting.queries import DAY_SECONDS
from ocm_wsgi.config import times
from ocm_wsgi.errors import NotFound, UserRejected
from ocm_wsgi.quota import limits
from ocm_wsgi.reporting import dashboard
from ocm_wsgi.reporting.client_setup import client_configuration
from ocm_wsgi.reporting.status import user_state
from ocm_wsgi.users.accounts import Account
from ocm_wsgi.users.user import User
from ocm_wsgi.views.dashboard.blueprint import actor, base_url, page, require_admin, see, this, viewer

_MOST_CONCURRENT = 10_000


def add_pages(blueprint: Blueprint) -> None:
    """Add the list, each user's page, and the pages that ask before something cannot be undone."""
    blueprint.add_url_rule("/users", "users", show_all)
    blueprint.add_url_rule("/users", "add_user", add, methods=["POST"])
    blueprint.add_url_rule("/users/<name>", "user", show)
    blueprint.add_url_rule("/users/<name>", "change_user", change, methods=["POST"])
    blueprint.add_url_rule("/users/<name>/access", "user_access", set_access, methods=["POST"])
    blueprint.add_url_rule("/users/<name>/rotate", "rotate_user", rotate, methods=["GET", "POST"])
    blueprint.add_url_rule("/users/<name>/remove", "remove_user", remove, methods=["GET", "POST"])


def show_all() -> Response:
    """All users, and a form for another."""
    require_admin()
    return _list(MultiDict(), None)


def add() -> Response:
    """Add a user and show their token, this once."""
    require_admin()
    form = request.form
    try:
        user = _changed(User(form.get("name", "").strip()), form)
        bearer_token = this().accounts.add(user, actor=actor())
    except UserRejected as refusal:
        return _list(form, refusal.message, 400)
    return _token_page(user.name, bearer_token, is_new=True)


def show(name: str) -> Response:
    """One user, with what they may and what they have used."""
    require_admin()
    return _user_page(_account(name), None, None)


def change(name: str) -> Response:
    """Change what a user may."""
    require_admin()
    account = _account(name)
    try:
        this().accounts.update(name, lambda user: _changed(user, request.form), actor=actor())
    except UserRejected as refusal:
        return _user_page(account, request.form, refusal.message, 400)
    return see(f"users/{name}?changed=1")


def set_access(name: str) -> Response:
    """Lock a user out, or let them in again."""
    require_admin()
    _account(name)
    is_disabled = request.form.get("disabled") == "1"
    this().accounts.update(name, lambda user: replace(user, disabled=is_disabled), actor=actor())
    return see(f"users/{name}?changed=1")


def rotate(name: str) -> Response:
    """Ask, then give a user a new token and show it, this once."""
    require_admin()
    account = _account(name)
    if request.method == "GET":
        return page("confirm", name=name, action="rotate", is_self=account.user.name == viewer().name)
    return _token_page(name, this().accounts.rotate_token(name, actor=actor()), is_new=False)


def remove(name: str) -> Response:
    """Ask, then remove a user."""
    require_admin()
    account = _account(name)
    if request.method == "GET":
        return page("confirm", name=name, action="remove", is_self=account.user.name == viewer().name)
    this().accounts.remove(name, actor=actor())
    return see("users")


def _account(name: str) -> Account:
    try:
        return this().accounts.show(name)
    except UserRejected as exc:
        raise NotFound(exc.message) from exc


def _list(form: MultiDict[str, str], problem: str | None, status: int = 200) -> Response:
    service = this().service
    now = time.time()
    rows = [(account.user, user_state(account.user, now)) for account in this().accounts.all()]
    used = {part.name: part for part in dashboard.used(service.ledger, now).users}
    return page("users", status, rows=rows, used=used, form=form, problem=problem)


def _user_page(account: Account, form: MultiDict[str, str] | None, problem: str | None, status: int = 200) -> Response:
    service, user = this().service, account.user
    return page(
        "user",
        status,
        account=account,
        user=user,
        state=user_state(user, time.time()),
        uses=service.admission.uses(user),
        used=dashboard.used(service.ledger, time.time(), user.name),
        form=form or _form(user),
        problem=problem,
        is_changed="changed" in request.args,
        client=client_configuration(base_url()),
    )


def _token_page(name: str, bearer_token: str, *, is_new: bool) -> Response:
    client = client_configuration(base_url(), bearer_token)
    return page("token", name=name, bearer_token=bearer_token, client=client, is_new=is_new)


def _form(user: User) -> MultiDict[str, str]:
    """What the form holds for a user as they are."""
    expires = user.expires_at
    fields = {
        "limits": "\n".join(str(limit) for limit in user.limits),
        "models": "\n".join(user.models),
        "max_concurrent": "" if user.max_concurrent is None else str(user.max_concurrent),
        "expires_on": "" if expires is None else datetime.fromtimestamp(expires, timezone.utc).strftime("%Y-%m-%d"),
    }
    return MultiDict({**fields, "admin": "1"} if user.admin else fields)


def _changed(user: User, form: MultiDict[str, str]) -> User:
    """Give a user as a form has them.

    :raises UserRejected: with a sentence on what is wrong.
    """
    try:
        wanted = tuple(limits.parse(line) for line in _lines(form.get("limits", "")))
    except ValueError as exc:
        raise UserRejected(str(exc)) from exc
    return replace(
        user,
        admin=form.get("admin") == "1",
        limits=wanted,
        models=tuple(_lines(form.get("models", ""))),
        max_concurrent=_number(form.get("max_concurrent", "").strip()),
        expires_at=_end_of(form.get("expires_on", "").strip(), user.expires_at),
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_CONCURRENT):
        raise UserRejected(f"Turns at once: a whole number from 1 to {_MOST_CONCURRENT}, or nothing.")
    return int(text)


def _end_of(text: str, before: float | None) -> float | None:
    """The beginning of a day in UTC. The day that is there already keeps its time of day."""
    if not text:
        return None
    try:
        day = times.parse_day(text)
    except ValueError as exc:
        raise UserRejected("Access ends on a day, such as 2027-01-31, or never.") from exc
    return before if before is not None and day <= before < day + DAY_SECONDS else day
