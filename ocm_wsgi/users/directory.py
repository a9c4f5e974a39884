"""Looking up users by their bearer token, in the configuration and in the database.

Tokens are known by their SHA-256 only: a token is shown once, when it is generated, and is never stored.
``UserDirectory`` serves requests, ``accounts`` changes users, and ``admission`` decides what a user may still use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ocm_wsgi.errors import AuthenticationFailed, StateError
from ocm_wsgi.storage import schema as db
from ocm_wsgi.users.tokens import token_digest
from ocm_wsgi.users.user import User, from_config, user_of

if TYPE_CHECKING:
    from ocm_wsgi.config import UserConfig
    from ocm_wsgi.storage.database import Database

_log = logging.getLogger(__name__)

#: Key in ``meta`` whose value is replaced with another random one at each change of a user.
VERSION_KEY = "users_version"

#: How long the database is not queried again after it failed, in seconds.
RETRY_SECONDS = 5.0

_UNKNOWN = "Unknown bearer token."
_DISABLED = "This user is disabled; ask the owner of the service."
_EXPIRED = "This user's access has expired; ask the owner of the service."

_VERSION = sa.select(db.meta.c.value).where(db.meta.c.key == VERSION_KEY)


@dataclass(frozen=True)
class _StoredUsers:
    """The database's users at one moment.

    :ivar version: ``None`` when no user was ever added.
    """

    version: str | None
    by_digest: Mapping[str, User]


class UserDirectory:
    """Finds the user that a token belongs to. Safe to create before a fork and to share between threads.

    A change of a user takes effect at the next request, in every process: each compares a version in the database,
    which takes some 70 microseconds. While the database cannot be read, the users last read stay valid.

    Once a user was ever added, a token is required, even after the last user was removed: losing all users must not
    open the service to everyone.

    :param clock: returns Unix seconds.
    """

    def __init__(
        self, config_users: Iterable[UserConfig], database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = {token_digest(user.token.get_secret_value()): from_config(user) for user in config_users}
        self._configured_names = {user.name for user in self._configured.values()}
        self._database = database
        self._clock = clock
        self._stored: _StoredUsers | None = None
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether no token is required, because there never was a user.

        :raises StateError: the database could never be read, so this is unknown.
        """
        return not self.is_known_closed and self._current().version is None

    @property
    def is_known_closed(self) -> bool:
        """Whether a token is required as far as this process knows, without a query. If so, that is final."""
        return bool(self._configured) or (self._stored is not None and self._stored.version is not None)

    @property
    def has_users(self) -> bool:
        """Whether there are any users.

        :raises StateError: as for ``is_open``.
        """
        return bool(self._configured or self._current().by_digest)

    def authenticate(self, bearer_token: str) -> User:
        """Return the user that a token belongs to.

        :raises AuthenticationFailed: the token is unknown, or the user is disabled or expired.
        :raises StateError: the token is not in the configuration, and the database could never be read.
        """
        digest = token_digest(bearer_token)
        return self._require_active(self._configured.get(digest) or self._current().by_digest.get(digest))

    def holder(self, name: str, is_theirs: Callable[[str], bool]) -> User:
        """Return the user of a name, provided that their current bearer token is the expected one.

        :param is_theirs: returns whether a token's digest is that of the expected token.
        :raises AuthenticationFailed: the token has changed, there is no such user, or they are disabled or expired.
        :raises StateError: as for ``authenticate``.
        """
        for digest, user in self._configured.items():
            if user.name == name:
                return self._require_active(user if is_theirs(digest) else None)
        stored = self._current().by_digest.items()
        return self._require_active(
            next((user for digest, user in stored if user.name == name and is_theirs(digest)), None)
        )

    def _require_active(self, user: User | None) -> User:
        if user is None:
            raise AuthenticationFailed(_UNKNOWN)
        if user.disabled:
            raise AuthenticationFailed(_DISABLED)
        if user.expires_at is not None and user.expires_at <= self._clock():
            raise AuthenticationFailed(_EXPIRED)
        return user

    def _current(self) -> _StoredUsers:
        """Return the database's users, read again if they have changed."""
        if time.monotonic() >= self._retry_at:
            try:
                self._stored = self._read()
            except StateError as exc:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                _log.error("Cannot read the users (%s); using those read last.", exc.detail or exc)
        if self._stored is None:
            raise StateError("Users cannot be looked up at the moment; try again.", retry_after_seconds=5)
        return self._stored

    def _read(self) -> _StoredUsers:
        with self._database.read() as connection:
            version: str | None = connection.scalar(_VERSION)
            stored = self._stored
            if stored is not None and (stored.version == version or version is None):
                # A version never goes away: without one, this is another database than the one that had users.
                return stored
            rows = connection.execute(sa.select(db.user)).mappings().all()
        return _StoredUsers(version, dict(self._usable(rows)))

    def _usable(self, rows: Iterable[Mapping[Any, Any]]) -> Iterator[tuple[str, User]]:
        for row in rows:
            if row["name"] in self._configured_names:
                _log.warning("Ignoring the user %s in the database: the configuration defines that name.", row["name"])
                continue
            try:
                yield row["token_sha256"], user_of(row)
            except ValueError as exc:
                _log.error("Ignoring the user %s in the database: %s", row["name"], exc)
