"""``flask ocm status``: the service's state, and how much of the subscription is left."""

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
from ocm_wsgi.config import Config
from ocm_wsgi.credentials import Credential, Mode
from ocm_wsgi.credentials.auth_file import MalformedDocument, decode
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import MEASURES, PERIOD_NAMES, Cycle, Period
from ocm_wsgi.quota.shares import Shares
from ocm_wsgi.reporting.status import iso, window_status


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
    credential, credential_problem = _credential(config)
    windows, users, state_problem = _windows(state)
    answers = is_listening(config)
    if as_json:
        echo_json(
            {
                "configuration": config.source,
                "base_url": default_base_url(config),
                "answers": answers,
                "credential": _credential_as_json(config, credential, credential_problem),
                "state": {"database": _database(state), "users": users, "problem": state_problem},
                "windows": [window_status(*window) for window in windows],
            }
        )
    else:
        pairs = [
            ("Configuration", config.source),
            ("Service", f"{'listening' if answers else 'not running'} at {default_base_url(config)}"),
            ("Credential", credential_problem or _credential_text(credential)),
            ("State", state_problem or f"{_database(state)}, {users} user{'' if users == 1 else 's'}"),
        ]
        click.echo(facts(pairs, terminal_width()))
        for window in windows:
            _echo_window(*window)
        if not windows and not state_problem:
            echo_paragraph("No usage reported by OpenAI yet; every response reports it.")
    if credential_problem or state_problem:
        raise click.exceptions.Exit(1)


def _credential(config: Config) -> tuple[Credential | None, str | None]:
    """Read the credential, without refreshing it."""
    path = config.credential_path
    try:
        return decode(path.read_bytes()).credential(), None
    except OSError as exc:
        return None, f"{path}: {exc.strerror}"
    except MalformedDocument as exc:
        return None, f"{path}: {exc}"
    except CredentialError as exc:
        return None, exc.message


def _windows(state: State) -> tuple[list[tuple[Period, Cycle, Shares]], int, str | None]:
    history = WindowHistory(state.database)
    try:
        users = len(state.accounts.all())
        found = [(period, history.shares(DEFAULT_CREDENTIAL, period)) for period in MEASURES]
    except StateError as exc:
        return [], 0, f"{exc.message} ({exc.detail})" if exc.detail else exc.message
    return [(period, *window) for period, window in found if window], users, None


def _database(state: State) -> str:
    return str(state.database.path or state.database.url.render_as_string(hide_password=True))


def _credential_text(credential: Credential | None) -> str:
    if credential is None or credential.mode is Mode.API_KEY:
        return "an API key"
    plan = f" {credential.plan_type}" if credential.plan_type else ""
    return f"ChatGPT{plan}, access token until {utc(credential.expires_at, 'unknown')} (then refreshed)"


def _credential_as_json(config: Config, credential: Credential | None, problem: str | None) -> dict[str, Any]:
    return {
        "path": str(config.credential_path),
        "mode": credential.mode.value if credential else None,
        "plan_type": credential.plan_type if credential else None,
        "expires_at": iso(credential.expires_at) if credential else None,
        "problem": problem,
    }


def _echo_window(period: Period, cycle: Cycle, shares: Shares) -> None:
    when = "ended" if cycle.end <= time.time() else "resets"
    used = percent(shares.used_percent)
    echo_paragraph(f"Subscription, {PERIOD_NAMES[period]}: {used} used, {when} {utc(cycle.end)}")
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
