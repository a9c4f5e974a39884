"""The commands that manage users."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import click

from ocm_wsgi.admission.admission import Admission, LimitUsage
from ocm_wsgi.admission.measurability import credential_path_of, require_measurable_for_owner
from ocm_wsgi.cli.output import echo_json, facts, percent, table, terminal_width, utc
from ocm_wsgi.cli.parameters import CREDENTIAL_TAG, FUTURE, LIMIT, USER_NAME, json_option, yes_option
from ocm_wsgi.cli.state import ACTOR, open_state
from ocm_wsgi.config import Config
from ocm_wsgi.credentials.auth_file import MalformedDocument, decode
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.quota.choosing import plan_weight
from ocm_wsgi.quota.limits import Limit
from ocm_wsgi.reporting.status import iso, limit_status, user_state
from ocm_wsgi.users.accounts import Account
from ocm_wsgi.users.user import User

_F = TypeVar("_F", bound=Callable[..., Any])

_LIMIT_HELP = 'A limit: "30% per week", "5 USD per day", "2M tokens per 5h", "100 requests per month". Can be repeated.'
_MODELS_HELP = "A pattern of allowed models, such as 'gpt-5*' (quoted). Can be repeated."
_EXPIRES_HELP = "When access expires: 2027-01-31, 2027-01-31T18:00 (UTC), or 12h, 30d, 4w from now."
_CONCURRENT_HELP = "The maximum number of concurrent turns."
_CREDENTIAL_HELP = "The tag of the credential that serves the user; by default the first in the configuration."


@click.command("add-user")
@click.argument("name")
@click.option("--limit", "limits", type=LIMIT, multiple=True, help=_LIMIT_HELP)
@click.option("--models", multiple=True, metavar="PATTERN", help=_MODELS_HELP)
@click.option("--expires", type=FUTURE, metavar="WHEN", help=_EXPIRES_HELP)
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help=_CONCURRENT_HELP)
@click.option("--admin", is_flag=True, help="May see and manage everything, and use the owner's reserve.")
@click.option("--credential", type=CREDENTIAL_TAG, metavar="TAG", help=_CREDENTIAL_HELP)
@json_option
def add_user(
    name: str,
    limits: tuple[Limit, ...],
    models: tuple[str, ...],
    expires: float | None,
    max_concurrent: int | None,
    admin: bool,
    credential: str | None,
    as_json: bool,
) -> None:
    """Add the user NAME and print their bearer token, once.

    Only its hash is stored, so it cannot be shown again; rotate-token creates another.

    \b
    Examples:
      ocm add-user alice
      ocm add-user bob --limit "30% per week" --limit "5 USD per day"
      ocm add-user ci --models 'gpt-5*' --expires 30d --max-concurrent 2
    """
    _require_future(expires)
    user = User(name, admin, False, models, limits, max_concurrent, expires, credential=credential)
    state = open_state()
    require_measurable_for_owner(limits, credential_path_of(state.config, credential))
    accounts = state.accounts
    bearer_token = accounts.add(user, actor=ACTOR)
    if as_json:
        echo_json({"user": _as_json(accounts.show(name)), "bearer_token": bearer_token})
        return
    click.echo(f"Added {name}.\n")
    _echo_token(name, bearer_token)


@click.command("list-users")
@json_option
def list_users(as_json: bool) -> None:
    """List all users, including those in the configuration.

    \b
    Examples:
      ocm list-users
      ocm list-users --json
    """
    accounts = open_state().accounts.all()
    if as_json:
        echo_json([_as_json(account) for account in accounts])
        return
    if not accounts:
        click.echo("There are no users. Add one: ocm add-user NAME")
        return
    rows = [_row(account) for account in accounts]
    headers = ("NAME", "STATE", "MODELS", "LIMITS", "MAX", "EXPIRES", "SOURCE")
    click.echo(table(headers, rows, terminal_width(), right=("MAX",)))


@click.command("show-user")
@click.argument("name", type=USER_NAME)
@json_option
def show_user(name: str, as_json: bool) -> None:
    """Show the user NAME and how much of each limit is used.

    \b
    Example:
      ocm show-user alice
    """
    state = open_state()
    account = state.accounts.show(name)
    admission = Admission(state.config, state.database, weight_of=partial(_weight_of, state.config))
    uses = admission.limit_usage(account.user) if account.user.limits else []
    if as_json:
        echo_json({**_as_json(account), "uses": [limit_status(use) for use in uses]})
        return
    width = terminal_width()
    user = account.user
    click.echo(
        facts(
            [
                ("Name", user.name),
                ("State", _state(user)),
                ("Models", ", ".join(user.models) or "all"),
                ("Max. turns", str(user.max_concurrent or "any number")),
                ("Expires", utc(user.expires_at)),
                ("Credential", user.credential or state.config.first_credential),
                ("Source", user.source),
                ("Added", utc(account.created_at, "-")),
                ("Changed", utc(account.updated_at, "-")),
            ],
            width,
        )
    )
    if uses:
        rows = [(str(use.limit), *_use_texts(use)) for use in uses]
        click.echo("\n" + table(("LIMIT", "USED", "RESETS"), rows, width, right=("USED",)))
    else:
        click.echo("\nNo limits.")


@click.command("update-user")
@click.argument("name", type=USER_NAME)
@click.option("--limit", "limits", type=LIMIT, multiple=True, help=_LIMIT_HELP + " Replaces all existing ones.")
@click.option("--no-limits", is_flag=True, help="Remove all limits.")
@click.option("--models", multiple=True, metavar="PATTERN", help=_MODELS_HELP + " Replaces all existing ones.")
@click.option("--all-models", is_flag=True, help="Allow all models.")
@click.option("--expires", type=FUTURE, metavar="WHEN", help=_EXPIRES_HELP)
@click.option("--no-expiry", is_flag=True, help="Remove the expiry.")
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help=_CONCURRENT_HELP)
@click.option("--no-max-concurrent", is_flag=True, help="Allow any number of concurrent turns.")
@click.option("--admin/--no-admin", default=None, help="Grant or revoke admin rights.")
@click.option("--credential", type=CREDENTIAL_TAG, metavar="TAG", help="The credential that serves the user.")
@click.option("--first-credential", is_flag=True, help="Serve the user with the first credential.")
@click.option("--disable/--enable", "disabled", default=None, help="Disable the user, or enable them again.")
@json_option
def update_user(name: str, as_json: bool, **options: Any) -> None:
    """Change the user NAME. Settings without an option stay the same.

    \b
    Examples:
      ocm update-user alice --limit "40% per week"
      ocm update-user alice --no-limits --models 'gpt-5*' --models o4-mini
      ocm update-user alice --disable
    """
    changes = _changes(**options)
    if not changes:
        raise click.UsageError("Nothing to change: give at least one option.")
    state = open_state()
    accounts = state.accounts

    def change(user: User) -> User:
        changed = replace(user, **changes)
        require_measurable_for_owner(changed.limits, credential_path_of(state.config, changed.credential))
        return changed

    accounts.update(name, change, actor=ACTOR)
    if as_json:
        echo_json(_as_json(accounts.show(name)))
    else:
        click.echo(f"Changed {name}, from the next request on.")


@click.command("rotate-token")
@click.argument("name", type=USER_NAME)
@yes_option
@json_option
def rotate_token(name: str, yes: bool, as_json: bool) -> None:
    """Give the user NAME a new bearer token. The old one stops working immediately.

    \b
    Example:
      ocm rotate-token alice
    """
    accounts = open_state().accounts
    accounts.show(name)
    _confirm(yes, f"Give {name} a new token? The current one stops working immediately.")
    bearer_token = accounts.rotate_token(name, actor=ACTOR)
    if as_json:
        echo_json({"name": name, "bearer_token": bearer_token})
        return
    click.echo(f"{name} has a new token; the old one no longer works.\n")
    _echo_token(name, bearer_token)


@click.command("remove-user")
@click.argument("name", type=USER_NAME)
@yes_option
@json_option
def remove_user(name: str, yes: bool, as_json: bool) -> None:
    """Remove the user NAME. Their token stops working immediately; their usage stays on record.

    To block a user temporarily, disable them: update-user NAME --disable.

    \b
    Example:
      ocm remove-user alice
    """
    accounts = open_state().accounts
    accounts.show(name)
    _confirm(yes, f"Remove {name}? Their token, limits and settings cannot be restored.")
    accounts.remove(name, actor=ACTOR)
    is_last = not accounts.all()
    if as_json:
        echo_json({"name": name, "removed": True})
        return
    click.echo(f"Removed {name}.")
    if is_last:
        click.echo("No users are left; every request is refused until you add one.")


def _changes(
    *,
    limits: tuple[Limit, ...],
    no_limits: bool,
    models: tuple[str, ...],
    all_models: bool,
    expires: float | None,
    no_expiry: bool,
    max_concurrent: int | None,
    no_max_concurrent: bool,
    admin: bool | None,
    credential: str | None,
    first_credential: bool,
    disabled: bool | None,
) -> dict[str, Any]:
    _require_future(expires)
    for value, is_cleared, names in (
        (limits, no_limits, "--limit and --no-limits"),
        (models, all_models, "--models and --all-models"),
        (expires, no_expiry, "--expires and --no-expiry"),
        (max_concurrent, no_max_concurrent, "--max-concurrent and --no-max-concurrent"),
        (credential, first_credential, "--credential and --first-credential"),
    ):
        if value and is_cleared:
            raise click.UsageError(f"{names} cannot be combined.")
    changes: dict[str, Any] = {
        "limits": limits or None,
        "models": models or None,
        "expires_at": expires,
        "max_concurrent": max_concurrent,
        "admin": admin,
        "credential": credential,
        "disabled": disabled,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    cleared: dict[str, tuple[bool, Any]] = {
        "limits": (no_limits, ()),
        "models": (all_models, ()),
        "expires_at": (no_expiry, None),
        "max_concurrent": (no_max_concurrent, None),
        "credential": (first_credential, None),
    }
    return changes | {key: empty for key, (is_cleared, empty) in cleared.items() if is_cleared}


def _weight_of(config: Config, tag: str) -> float:
    """Return the weight of an account's plan, by its credential."""
    path = next(account.credential_path for account in config.accounts if account.tag == tag)
    try:
        return plan_weight(decode(path.read_bytes()).credential().plan_type)
    except (OSError, MalformedDocument, CredentialError):
        return plan_weight(None)


def _require_future(expires: float | None) -> None:
    if expires is not None and expires <= time.time():
        raise click.BadParameter(
            "this time is in the past; to block a user, use update-user --disable.", param_hint="--expires"
        )


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


def _echo_token(name: str, bearer_token: str) -> None:
    click.echo(f"Their bearer token, shown only once and not stored:\n\n    {bearer_token}\n")
    click.echo(f"To set up {name}'s client:\n\n    ocm client-config {name}")


def _state(user: User) -> str:
    state = user_state(user, time.time())
    return "admin" if state == "active" and user.admin else state


def _row(account: Account) -> Sequence[str]:
    user = account.user
    return (
        user.name,
        _state(user),
        ", ".join(user.models) or "all",
        ", ".join(str(limit) for limit in user.limits) or "none",
        str(user.max_concurrent or "any"),
        utc(user.expires_at, "-"),
        user.source,
    )


def _use_texts(use: LimitUsage) -> tuple[str, str]:
    part = percent(use.used / use.limit.amount * 100)
    if use.limit.unit == "percent":
        text = percent(use.used)
    elif use.limit.unit == "usd":
        text = f"{use.used:.2f} USD ({part})"
    else:
        text = f"{use.used:,} ({part})"
    return text, utc(use.span.end)


def _as_json(account: Account) -> dict[str, Any]:
    user = account.user
    return {
        "name": user.name,
        "state": _state(user),
        "admin": user.admin,
        "disabled": user.disabled,
        "models": list(user.models),
        "limits": [str(limit) for limit in user.limits],
        "max_concurrent": user.max_concurrent,
        "expires_at": iso(user.expires_at),
        "credential": user.credential,
        "source": user.source,
        "created_at": iso(account.created_at),
        "updated_at": iso(account.updated_at),
    }
