"""Kinds of value on the command line, with the words for what is wrong with one."""

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
    """The name of a user; completed by the shell."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the users there are; nothing where that cannot be told."""
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
        """Read it."""
        if isinstance(value, limits.Limit):
            return value
        try:
            return limits.parse(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class When(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A moment: a date or time in UTC, or a duration from now.

    :param sign: 1 for durations into the future, -1 into the past.
    """

    name = "when"

    def __init__(self, sign: int) -> None:
        self._sign = sign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as Unix seconds."""
        if isinstance(value, float):
            return value
        duration = _DURATION.fullmatch(value)
        if duration:
            return time.time() + self._sign * int(duration[1]) * _SECONDS[duration[2]]
        try:
            return times.parse_utc(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 2027-01-31, 2027-01-31T18:00 (UTC), or 12h, 30d, 4w.", param, ctx)


USER_NAME = UserName()
LIMIT = LimitType()
FUTURE = When(1)
PAST = When(-1)


def json_option(function: _F) -> _F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def yes_option(function: _F) -> _F:
    """Add ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)
