"""A user, and how the configuration and the table ``user`` describe one. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ocm_wsgi.quota import limits
from ocm_wsgi.quota.limits import Limit

if TYPE_CHECKING:
    from ocm_wsgi.config import UserConfig

#: Names of users in the database. They appear in commands, file names and URLs of pages.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)

Source = Literal["configuration", "database"]


@dataclass(frozen=True)
class User:
    """A named holder of a bearer token.

    :ivar name: ``""`` for anyone, where no users exist.
    :ivar models: shell patterns (``gpt-5*``) of the models allowed; none: all.
    :ivar max_concurrent: how many turns may run at the same time, at least 1, or ``None`` for any number.
    :ivar expires_at: Unix seconds from which the token is refused, or ``None``.
    :ivar credential: the tag of the credential that serves the user; ``None`` for the first.
    """

    name: str
    admin: bool = False
    disabled: bool = False
    models: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    max_concurrent: int | None = None
    expires_at: float | None = None
    source: Source = "database"
    credential: str | None = None


#: The user of every request where no users exist, so that no token is required.
ANYONE = User("", source="configuration")


def from_config(user: UserConfig) -> User:
    """Return the user that the configuration describes, without the token."""
    return User(
        name=user.name,
        admin=user.admin,
        disabled=user.disabled,
        models=tuple(user.models),
        limits=limits.from_config(user.limits),
        max_concurrent=user.max_concurrent,
        expires_at=None if user.expires_at is None else user.expires_at.timestamp(),
        source="configuration",
        credential=user.credential,
    )


def columns_of(user: User) -> dict[str, Any]:
    """Return the columns of the table ``user`` that describe a user."""
    return {
        "name": user.name,
        "admin": user.admin,
        "disabled": user.disabled,
        "models": list(user.models) or None,
        "limits": [str(limit) for limit in user.limits] or None,
        "max_concurrent": user.max_concurrent,
        "expires_at": user.expires_at,
        "credential": user.credential,
    }


def user_of(row: Mapping[Any, Any]) -> User:
    """Return the user that a row of the table ``user`` describes.

    :raises ValueError: a newer release has written limits that this one does not know.
    """
    return User(
        name=row["name"],
        admin=row["admin"],
        disabled=row["disabled"],
        models=tuple(row["models"] or ()),
        limits=tuple(limits.parse(text) for text in row["limits"] or ()),
        max_concurrent=row["max_concurrent"],
        expires_at=row["expires_at"],
        credential=row["credential"],
    )
