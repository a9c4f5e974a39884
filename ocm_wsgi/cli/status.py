"""``ocm status``: the service's state, and how much of the subscription is left."""

from __future__ import annotations

import time
from typing import Any

import click

from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.checks.listening import is_listening
from ocm_wsgi.cli.client import default_base_url
from ocm_wsgi.cli.output import echo_json, echo_paragraph, facts, percent, table, terminal_width, utc
from ocm_wsgi.cli.parameters import json_option
from ocm_wsgi.cli.state import State, open_state
from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.credentials import Credential, Mode
from ocm_wsgi.credentials.auth_file import MalformedDocument, decode
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.quota.limits import MEASURES, PERIOD_NAMES, Cycle, Period
from ocm_wsgi.quota.shares import Shares
from ocm_wsgi.reporting.status import iso, window_status

_Window = tuple[Period, Cycle, Shares]


@click.command("status", short_help="Show the service's state and how much is left.")
@json_option
def status(as_json: bool) -> None:
    """Show whether the service is running, its credential and state, and who used the subscription.

    Exits with 1 if the credential or the state cannot be used.

    \b
    Examples:
      ocm status
      ocm status --json
    """
    state = open_state()
    config = state.config
    found = [(account, *_credential(account)) for account in config.accounts]
    is_unusable = any(problem is not None for _, _, problem in found)
    windows, users, state_problem = _windows(state)
    first = config.accounts[0].tag
    answers = is_listening(config)
    if as_json:
        echo_json(
            {
                "configuration": config.source,
                "base_url": default_base_url(config),
                "answers": answers,
                "credential": _credential_as_json(*found[0]),
                "credentials": [{"tag": each[0].tag, **_credential_as_json(*each)} for each in found],
                "state": {"database": _database(state), "users": users, "problem": state_problem},
                "windows": [window_status(*window) for tag, window in windows if tag == first],
            }
        )
    else:
        pairs = [
            ("Configuration", config.source),
            ("Service", f"{'listening' if answers else 'not running'} at {default_base_url(config)}"),
            *(
                (_name(config, account), problem or _credential_text(credential))
                for account, credential, problem in found
            ),
            ("State", state_problem or f"{_database(state)}, {users} user{'' if users == 1 else 's'}"),
        ]
        click.echo(facts(pairs, terminal_width()))
        for tag, window in windows:
            _echo_window("Subscription" if len(found) == 1 else tag, *window)
        if not windows and not state_problem:
            echo_paragraph("No usage reported by OpenAI yet; every response reports it.")
    if is_unusable or state_problem:
        raise click.exceptions.Exit(1)


def _name(config: Config, account: AccountConfig) -> str:
    return "Credential" if len(config.accounts) == 1 else f"Credential {account.tag}"


def _credential(account: AccountConfig) -> tuple[Credential | None, str | None]:
    """Read the credential, without refreshing it."""
    path = account.credential_path
    try:
        return decode(path.read_bytes()).credential(), None
    except OSError as exc:
        return None, f"{path}: {exc.strerror}"
    except MalformedDocument as exc:
        return None, f"{path}: {exc}"
    except CredentialError as exc:
        return None, exc.message


def _windows(state: State) -> tuple[list[tuple[str, _Window]], int, str | None]:
    """Return the windows of all accounts, how many users there are, and why the state cannot be used."""
    history = WindowHistory(state.database)
    try:
        users = len(state.accounts.all())
        found = [
            (account.tag, period, history.shares(account.tag, period))
            for account in state.config.accounts
            for period in MEASURES
        ]
    except StateError as exc:
        return [], 0, f"{exc.message} ({exc.detail})" if exc.detail else exc.message
    return [(tag, (period, *window)) for tag, period, window in found if window], users, None


def _database(state: State) -> str:
    return str(state.database.path or state.database.url.render_as_string(hide_password=True))


def _credential_text(credential: Credential | None) -> str:
    if credential is None or credential.mode is Mode.API_KEY:
        return "an API key"
    plan = f" {credential.plan_type}" if credential.plan_type else ""
    return f"ChatGPT{plan}, access token until {utc(credential.expires_at, 'unknown')} (then refreshed)"


def _credential_as_json(account: AccountConfig, credential: Credential | None, problem: str | None) -> dict[str, Any]:
    return {
        "path": str(account.credential_path),
        "mode": credential.mode.value if credential else None,
        "plan_type": credential.plan_type if credential else None,
        "expires_at": iso(credential.expires_at) if credential else None,
        "problem": problem,
    }


def _echo_window(name: str, period: Period, cycle: Cycle, shares: Shares) -> None:
    when = "ended" if cycle.end <= time.time() else "resets"
    used = percent(shares.used_percent)
    echo_paragraph(f"{name}, {PERIOD_NAMES[period]}: {used} used, {when} {utc(cycle.end)}")
    rows = sorted(shares.percents.items(), key=lambda item: -item[1])
    texts = [(user or "-", percent(part)) for user, part in rows]
    click.echo(
        table(
            ("USER", "USED"),
            [*texts, ("(outside this service)", percent(shares.outside))],
            terminal_width(),
            right=("USED",),
        )
    )
