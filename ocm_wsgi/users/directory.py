"""Who may use the service: users from the configuration and from the database, known by the SHA-256 of their token.

A bearer token is shown once, when it is made, and is kept nowhere: the database and this process hold its digest.
``UserDirectory`` answers requests; ``accounts`` changes users. What a user may still use, ``admission`` knows.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from ocm_wsgi.errors import AuthenticationFailed, StateError
from ocm_wsgi.quota import limits
from ocm_wsgi.quota.limits import Limit
from ocm_wsgi.storage import schema as db

if TYPE_CHECKING:
    from ocm_wsgi.config import UserConfig
    from ocm_wsgi.storage.database import Database

logger = logging.getLogger(__name__)

TOKEN_PREFIX = "sk-ocm-"  # noqa: S105 - what every token begins with, so that secret scanners can find one

#: 43 of 62 characters: 256 bits.
_TOKEN_LENGTH = 43
_TOKEN_ALPHABET = string.ascii_letters + string.digits

#: Of users in the database. They stand in commands, file names and addresses of pages.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)

#: Key in ``meta`` that holds another random value after each change of a user.
VERSION_KEY = "users_version"

#: How long the database is left alone after it failed, in seconds.
RETRY_SECONDS = 5.0

_UNKNOWN = "The bearer token is not known here."
_DISABLED = "This user is disabled here; ask the owner of the service."
_EXPIRED = "This user's time here is over; ask the owner of the service."

_VERSION = sa.select(db.meta.c.value).where(db.meta.c.key == VERSION_KEY)

Source = Literal["configuration", "database"]


@dataclass(frozen=True)
class User:
    """A named holder of a bearer token.

    :ivar name: ``""`` stands for whoever comes, where no users exist.
    :ivar models: patterns as in a shell (``gpt-5*``) of the models allowed; none: all.
    :ivar max_concurrent: turns at once, at least 1, or ``None`` for any number.
    :ivar expires_at: Unix seconds from which the token is refused, or ``None``.
    """

    name: str
    admin: bool = False
    disabled: bool = False
    models: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    max_concurrent: int | None = None
    expires_at: float | None = None
    source: Source = "database"


#: Whoever comes, where no users exist and so nobody is asked for a token.
ANYONE = User("", source="configuration")


def new_token() -> str:
    """Make a bearer token."""
    return TOKEN_PREFIX + "".join(secrets.choice(_TOKEN_ALPHABET) for _ in range(_TOKEN_LENGTH))


def token_digest(bearer_token: str) -> str:
    """Give the SHA-256 of a token in hexadecimal. Not salted: tokens are random and cannot be guessed."""
    return hashlib.sha256(bearer_token.encode("utf-8", "surrogateescape")).hexdigest()


def from_config(user: UserConfig) -> User:
    """Give the user that the configuration describes, without the token."""
    return User(
        name=user.name,
        admin=user.admin,
        disabled=user.disabled,
        models=tuple(user.models),
        limits=limits.from_config(user.limits),
        max_concurrent=user.max_concurrent,
        expires_at=None if user.expires_at is None else user.expires_at.timestamp(),
        source="configuration",
    )


def columns_of(user: User) -> dict[str, Any]:
    """Give the columns of the table ``user`` that describe a user."""
    return {
        "name": user.name,
        "admin": user.admin,
        "disabled": user.disabled,
        "models": list(user.models) or None,
        "limits": [str(limit) for limit in user.limits] or None,
        "max_concurrent": user.max_concurrent,
        "expires_at": user.expires_at,
    }


def user_of(row: Mapping[Any, Any]) -> User:
    """Give the user that a row of the table ``user`` describes.

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
    )


@dataclass(frozen=True)
class _Known:
    """The database's users at one moment.

    :ivar version: ``None`` when no user was ever added.
    """

    version: str | None
    by_digest: Mapping[str, User]


class UserDirectory:
    """Tells whose token it is. Safe to make before a fork and to share between threads.

    A change of a user is in force at the next request, in every process: each looks at a version in the database,
    which takes some 70 microseconds. While the database cannot be read the users last known stay known.

    Once a user was ever added, a token is asked for, even after the last one was removed: losing users must not open
    the service to all.

    :param clock: gives Unix seconds.
    """

    def __init__(
        self, config_users: Iterable[UserConfig], database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = {token_digest(user.token.get_secret_value()): from_config(user) for user in config_users}
        self._configured_names = {user.name for user in self._configured.values()}
        self._database = database
        self._clock = clock
        self._known: _Known | None = None
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a token, because there never was a user.

        :raises StateError: the database could never be read, so that cannot be told.
        """
        if self._configured:
            return False
        if self._known is not None and self._known.version is not None:
            return False
        return self._current().version is None

    @property
    def has_users(self) -> bool:
        """Whether there is a user at all.

        :raises StateError: as for ``is_open``.
        """
        return bool(self._configured or self._current().by_digest)

    def authenticate(self, bearer_token: str) -> User:
        """Give the user that a token belongs to.

        :raises AuthenticationFailed: it is nobody's, or the user is disabled or expired.
        :raises StateError: it is not in the configuration, and the database could never be read.
        """
        digest = token_digest(bearer_token)
        return self._admitted(self._configured.get(digest) or self._current().by_digest.get(digest))

    def holder(self, name: str, is_theirs: Callable[[str], bool]) -> User:
        """Give the user of a name, as long as their bearer token is still the one that is meant.

        :param is_theirs: tells by the token's digest whether it is.
        :raises AuthenticationFailed: it is not, there is no such user, or they are disabled or expired.
        :raises StateError: as for ``authenticate``.
        """
        for digest, user in self._configured.items():
            if user.name == name:
                return self._admitted(user if is_theirs(digest) else None)
        known = self._current().by_digest.items()
        return self._admitted(next((user for digest, user in known if user.name == name and is_theirs(digest)), None))

    def _admitted(self, user: User | None) -> User:
        if user is None:
            raise AuthenticationFailed(_UNKNOWN)
        if user.disabled:
            raise AuthenticationFailed(_DISABLED)
        if user.expires_at is not None and user.expires_at <= self._clock():
            raise AuthenticationFailed(_EXPIRED)
        return user

    def _current(self) -> _Known:
        """Read the users where they have changed."""
        if time.monotonic() >= self._retry_at:
            try:
                self._known = self._read()
            except StateError as exc:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                logger.error("The users cannot be read (%s); those last known stay known.", exc.detail or exc)
        if self._known is None:
            raise StateError("Users cannot be looked up at the moment; try again.", retry_after_seconds=5)
        return self._known

    def _read(self) -> _Known:
        with self._database.read() as connection:
            version: str | None = connection.scalar(_VERSION)
            known = self._known
            if known is not None and (known.version == version or version is None):
                # A version never goes away: without one, this is another database than the one that had users.
                return known
            rows = connection.execute(sa.select(db.user)).mappings().all()
        return _Known(version, dict(self._usable(rows)))

    def _usable(self, rows: Iterable[Mapping[Any, Any]]) -> Iterator[tuple[str, User]]:
        for row in rows:
            if row["name"] in self._configured_names:
                logger.warning("The user %s is in the configuration; the one in the database is ignored.", row["name"])
                continue
            try:
                yield row["token_sha256"], user_of(row)
            except ValueError as exc:
                logger.error("The user %s cannot be used: %s", row["name"], exc)
