"""Parameter types of the command line, and options that several commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ocm_wsgi.cli.state import quiet_state
from ocm_wsgi.config import times
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
LIMIT = LimitType()
FUTURE = When(1)
PAST = When(-1)


def json_option(function: _F) -> _F:
    """Add the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def yes_option(function: _F) -> _F:
    """Add the option ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(function)
