"""Parameter types of the command line, and options that several commands share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ocm_wsgi.cli.state import quiet_state
from ocm_wsgi.config import AccountConfig, Config, load, times
from ocm_wsgi.errors import OcmError
from ocm_wsgi.quota import limits

_F = TypeVar("_F", bound=Callable[..., Any])
_DURATION = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


class UserName(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A user's name, with shell completion."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the existing users, or nothing if they cannot be read."""
        try:
            with quiet_state() as state:
                names = [account.user.name for account in state.accounts.all()]
        except (OcmError, OSError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class CredentialTag(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """The tag of a credential in the configuration, with shell completion.

    :param with_pools: whether it may be that of a pool.
    """

    name = "tag"

    def __init__(self, *, with_pools: bool) -> None:
        self._with_pools = with_pools

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Require that there is such a credential."""
        tags = _tags(with_pools=self._with_pools)
        if value not in tags:
            self.fail(f"{value!r} is no credential; the configuration has: {', '.join(tags)}.", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the tags, or nothing if the configuration is invalid."""
        try:
            tags = _tags(with_pools=self._with_pools)
        except (OcmError, OSError):
            return []
        return [CompletionItem(tag) for tag in tags if tag.startswith(incomplete)]


def _tags(*, with_pools: bool) -> list[str]:
    config = load(os.environ, Path.cwd())
    tags = [account.tag for account in config.accounts]
    return [*tags, *(pool.tag for pool in config.pools)] if with_pools else tags


class LimitType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A limit such as ``30% per week``."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> limits.Limit:
        """Parse a limit."""
        if isinstance(value, limits.Limit):
            return value
        try:
            return limits.parse(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class When(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A point in time: a date or time in UTC, or a duration relative to now.

    :param sign: 1 for durations into the future, -1 into the past.
    """

    name = "when"

    def __init__(self, sign: int) -> None:
        self._sign = sign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a point in time into Unix seconds."""
        if isinstance(value, float):
            return value
        duration = _DURATION.fullmatch(value)
        if duration:
            return time.time() + self._sign * int(duration[1]) * _SECONDS[duration[2]]
        try:
            return times.parse_utc(value)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time such as 2027-01-31, 2027-01-31T18:00 (UTC), 12h, 30d or 4w.", param, ctx
            )


USER_NAME = UserName()
CREDENTIAL_TAG = CredentialTag(with_pools=True)
ACCOUNT_TAG = CredentialTag(with_pools=False)
LIMIT = LimitType()
FUTURE = When(1)
PAST = When(-1)


def json_option(function: _F) -> _F:
    """Add the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def credential_option(function: _F) -> _F:
    """Add the option ``--credential``; see :func:`chosen_account`."""
    help_ = "The tag of the credential, if the configuration has several."
    return click.option("--credential", type=ACCOUNT_TAG, metavar="TAG", help=help_)(function)


def chosen_account(config: Config, tag: str | None) -> AccountConfig:
    """Return the account that ``--credential`` chose, which has to be given if there are several."""
    if tag is None and len(config.accounts) > 1:
        tags = ", ".join(account.tag for account in config.accounts)
        raise click.UsageError(f"The configuration has several credentials; choose one with --credential: {tags}.")
    return next(account for account in config.accounts if tag in (None, account.tag))


def yes_option(function: _F) -> _F:
    """Add the option ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(function)
