"""``ocm credentials``: the accounts, and in which state each of them is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.cli.output import echo_json, facts, percent, table, terminal_width, utc
from ocm_wsgi.cli.parameters import json_option
from ocm_wsgi.cli.state import State, open_state
from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.credentials import Mode, Refresher
from ocm_wsgi.credentials.sign_in import CredentialOwner, current, owner_of
from ocm_wsgi.errors import CredentialError, LoginFailed, StateError
from ocm_wsgi.oauth.refresh import REFUSALS
from ocm_wsgi.pools.blocks import Block, Blocks
from ocm_wsgi.quota.limits import MEASURES, PERIOD_NAMES, Cycle, Period
from ocm_wsgi.quota.shares import Shares
from ocm_wsgi.reporting.status import iso, window_status

#: The reasons of blocks, for people.
_BLOCKS = {
    "deactivated": "deactivated by OpenAI; tried again",
    "failing": "OpenAI is failing; not used",
    "paused": "paused",
    "payment": "not paid for; tried again",
    "rate_limit": "too many requests; not used",
    "usage_limit": "used up",
}


@dataclass(frozen=True)
class _AccountState:
    """An account, and what is known of it.

    :ivar owner: of its credential; ``None`` if there is none.
    :ivar problem: why its credential cannot be used, or ``None``.
    :ivar windows: as last reported by upstream.
    :ivar block: why its pools do not use it; ``None`` if they never had to.
    """

    account: AccountConfig
    owner: CredentialOwner | None
    problem: str | None
    windows: list[tuple[Period, Cycle, Shares]]
    users: list[str]
    block: Block | None

    def used_up(self, now: float) -> tuple[Period, Cycle] | None:
        """Return the window that is used up as far as it may be used, and resets last; ``None`` without one."""
        caps: Mapping[Period, int | None] = {"5h": self.account.cap_5h, "week": self.account.cap_weekly}
        full = [
            (period, cycle)
            for period, cycle, shares in self.windows
            if now < cycle.end and shares.used_percent >= (caps[period] or 100)
        ]
        return max(full, key=lambda window: window[1].end, default=None)

    def words(self, now: float) -> str:
        """Return the state for people."""
        if self.problem is not None:
            return self.problem
        if self.block is not None and self.block.until > now:
            until = "" if self.block.is_paused else f" until {utc(self.block.until)}"
            return f"{_BLOCKS.get(self.block.reason, self.block.reason)}{until}"
        used_up = self.used_up(now)
        if used_up is not None:
            return f"{PERIOD_NAMES[used_up[0]]} used up until {utc(used_up[1].end)}"
        return "ready"

    def state(self, now: float) -> str:
        """Return the state for programs."""
        if self.problem is not None:
            return "signed_out" if self.owner is None else "unusable"
        if self.block is not None and self.block.until > now:
            return "paused" if self.block.is_paused else "blocked"
        return "used_up" if self.used_up(now) else "ready"


@click.command("credentials", short_help="List the accounts and their states.")
@json_option
def credentials(as_json: bool) -> None:
    """List the accounts: who is signed in, how much of each window is used, and whether it can be used now.

    Exits with 1 if one of them cannot be used because of its credential.

    \b
    Examples:
      ocm credentials
      ocm credentials --json
    """
    state, now = open_state(), time.time()
    found = _states(state)
    if as_json:
        echo_json([_as_json(each, now) for each in found])
    else:
        headers = ("TAG", "STATE", "SIGNED IN", "5 HOURS", "WEEK", "USERS")
        rows = [_row(each, now) for each in found]
        click.echo(table(headers, rows, terminal_width(), right=("5 HOURS", "WEEK")))
        for each in found:
            if each.problem is not None:
                command = "ocm login" + (f" --credential {each.account.tag}" if len(found) > 1 else "")
                pairs = [("File", str(each.account.credential_path)), ("Sign in", command)]
                click.echo(f"\n{each.account.tag}: {each.problem}\n" + facts(pairs, terminal_width()))
    if any(each.problem is not None for each in found):
        raise click.exceptions.Exit(1)


def _states(state: State) -> list[_AccountState]:
    config, history = state.config, WindowHistory(state.database)
    try:
        users = [account.user for account in state.accounts.all()]
        windows = {
            account.tag: [(period, history.shares(account.tag, period)) for period in MEASURES]
            for account in config.accounts
        }
    except StateError as exc:
        click.echo(f"Warning: {exc.message}", err=True)
        users, windows = [], {account.tag: [] for account in config.accounts}
    blocks = Blocks(state.database).all()
    first = config.first_credential
    pools = {pool.tag: pool.members for pool in config.pools}
    return [
        _AccountState(
            account,
            *_credential(config, account),
            [(period, *window) for period, window in windows[account.tag] if window is not None],
            [user.name for user in users if account.tag in _serving(user.credential or first, pools)],
            blocks.get(account.tag),
        )
        for account in config.accounts
    ]


def _serving(credential: str, pools: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return pools.get(credential, (credential,))


def _credential(config: Config, account: AccountConfig) -> tuple[CredentialOwner | None, str | None]:
    """Return the owner of an account's credential, and why it cannot be used. Refreshes nothing."""
    path = account.credential_path
    try:
        document = current(path)
    except LoginFailed as exc:
        return None, exc.message
    if document is None:
        return None, "signed out" if not path.exists() else "its file is damaged"
    try:
        credential = document.credential()
    except CredentialError as exc:
        return None, exc.message
    owner = owner_of(document)
    if credential.mode is Mode.API_KEY:
        return owner, None
    try:
        refresher = Refresher(auth_base_url=config.auth_base_url)
        refusal = refresher.refusal(path, state_path=config.state_path, document=document)
    except CredentialError as exc:
        return owner, exc.message
    return owner, None if refusal is None else f"signed out: {REFUSALS.get(refusal, 'OpenAI refused to refresh it')}"


def _row(each: _AccountState, now: float) -> tuple[str, ...]:
    used = {period: percent(shares.used_percent if now < cycle.end else 0) for period, cycle, shares in each.windows}
    return (
        each.account.tag,
        each.words(now),
        "-" if each.owner is None else str(each.owner),
        used.get("5h", "-"),
        used.get("week", "-"),
        ", ".join(each.users) or "-",
    )


def _as_json(each: _AccountState, now: float) -> dict[str, Any]:
    owner, used_up = each.owner, each.used_up(now)
    return {
        "tag": each.account.tag,
        "state": each.state(now),
        "problem": each.problem,
        "used_up_until": iso(used_up[1].end) if used_up else None,
        "blocked": _block_as_json(each.block, now),
        "credential_path": str(each.account.credential_path),
        "mode": owner.mode.value if owner else None,
        "account_id": owner.account_id if owner else None,
        "email": owner.email if owner else None,
        "plan_type": owner.plan_type if owner else None,
        "cap_5h": each.account.cap_5h,
        "cap_weekly": each.account.cap_weekly,
        "windows": [window_status(*window) for window in each.windows],
        "users": each.users,
    }


def _block_as_json(block: Block | None, now: float) -> dict[str, Any] | None:
    if block is None or block.until <= now:
        return None
    return {"reason": block.reason, "until": None if block.is_paused else iso(block.until)}
