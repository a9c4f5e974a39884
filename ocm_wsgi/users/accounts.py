"""Managing the users in the database, for the command line and the dashboard.

Users in the configuration are listed too, but can only be changed there. A change takes effect at the next request of
every worker, and is recorded in the audit trail.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ocm_wsgi.errors import UserRejected
from ocm_wsgi.storage import schema as db
from ocm_wsgi.users.directory import VERSION_KEY
from ocm_wsgi.users.tokens import new_token, token_digest
from ocm_wsgi.users.user import NAME, User, columns_of, from_config, user_of

if TYPE_CHECKING:
    from ocm_wsgi.config import UserConfig
    from ocm_wsgi.storage.database import Database

_BY_NAME = sa.select(db.user).where(db.user.c.name == sa.bindparam("user_name"))


@dataclass(frozen=True)
class Account:
    """A user, and when the account was created and changed.

    :ivar created_at: Unix seconds, as is ``updated_at``; ``None`` for users in the configuration.
    """

    user: User
    created_at: float | None = None
    updated_at: float | None = None


class Accounts:
    """Lists and changes users.

    :param clock: returns Unix seconds.
    """

    def __init__(
        self, config_users: Iterable[UserConfig], database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = {user.name: Account(from_config(user)) for user in config_users}
        self._database = database
        self._clock = clock

    def all(self) -> list[Account]:
        """Return all users, sorted by name.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            stored = [_account(row) for row in connection.execute(sa.select(db.user)).mappings()]
        shown = [account for account in stored if account.user.name not in self._configured]
        return sorted([*self._configured.values(), *shown], key=lambda account: account.user.name.casefold())

    def show(self, name: str) -> Account:
        """Return one user.

        :raises UserRejected: there is no user of that name.
        :raises StateError: the database cannot be read.
        """
        if name in self._configured:
            return self._configured[name]
        with self._database.read() as connection:
            return _stored(connection, name)

    def add(self, user: User, *, actor: str) -> str:
        """Add a user.

        :param actor: for the audit trail: the name of the user who does this, or ``"cli"``.
        :return: their bearer token, which cannot be shown again.
        :raises UserRejected: the name is taken, or a value is invalid.
        :raises StateError: nothing was changed.
        """
        _validate(user)
        self._require_not_configured(user.name)
        bearer_token, now = new_token(), self._clock()
        row = {**columns_of(user), "token_sha256": token_digest(bearer_token), "created_at": now, "updated_at": now}
        with self._database.write() as connection:
            try:
                connection.execute(db.user.insert(), row)
            except sa.exc.IntegrityError as exc:
                raise UserRejected(f"The user {user.name} already exists.") from exc
            self._audit(connection, actor, "user.added", user.name, _public(user))
        return bearer_token

    def add_all(self, users: Iterable[tuple[Account, str]], *, actor: str, skip_existing: bool) -> tuple[int, int]:
        """Add users who have a token already, such as those of another installation: all of them, or none.

        :param users: each with the digest of their token, and with the times of their account.
        :param skip_existing: leave out users whose name is taken; otherwise that is an error.
        :return: the number of users added, and of those left out.
        :raises UserRejected: a name or a token is taken, or a value is invalid. Nobody was added.
        :raises StateError: nobody was added.
        """
        added = skipped = 0
        with self._database.write() as connection:
            for account, digest in users:
                name = account.user.name
                _validate(account.user)
                if name in self._configured or connection.execute(_BY_NAME, {"user_name": name}).first() is not None:
                    if not skip_existing:
                        raise UserRejected(f"The user {name} already exists. Nobody was added.")
                    skipped += 1
                    continue
                times = {"created_at": account.created_at, "updated_at": account.updated_at}
                try:
                    row = {**columns_of(account.user), "token_sha256": digest, **times}
                    connection.execute(db.user.insert(), row)
                except sa.exc.IntegrityError as exc:
                    raise UserRejected(f"Another user has the token of {name}. Nobody was added.") from exc
                self._audit(connection, actor, "user.added", name, _public(account.user))
                added += 1
        return added, skipped

    def update(self, name: str, change: Callable[[User], User], *, actor: str) -> User:
        """Change a user. Concurrent changes are serialized, so none is lost.

        :param change: returns the new value, given the old one; the name stays the same.
        :raises UserRejected: there is no user of that name, the configuration defines it, or a value is invalid.
        :raises StateError: nothing was changed.
        """
        self._require_not_configured(name)
        with self._database.write() as connection:
            before = _stored(connection, name).user
            after = change(before)
            _validate(after)
            columns = {**columns_of(after), "name": name, "updated_at": self._clock()}
            connection.execute(db.user.update().where(db.user.c.name == name), columns)
            old, new = _public(before), _public(after)
            changed = {key: [old[key], new[key]] for key in new if old[key] != new[key]}
            self._audit(connection, actor, "user.updated", name, changed)
        return after

    def rotate_token(self, name: str, *, actor: str) -> str:
        """Replace a user's bearer token and return the new one; the old one stops working.

        :raises UserRejected: there is no user of that name, or the configuration defines it.
        :raises StateError: nothing was changed.
        """
        self._require_not_configured(name)
        bearer_token = new_token()
        columns = {"token_sha256": token_digest(bearer_token), "updated_at": self._clock()}
        with self._database.write() as connection:
            _stored(connection, name)
            connection.execute(db.user.update().where(db.user.c.name == name), columns)
            self._audit(connection, actor, "user.token_rotated", name)
        return bearer_token

    def remove(self, name: str, *, actor: str) -> None:
        """Remove a user. Their usage stays in the ledger, under their name.

        What they have stored at OpenAI stays there, for admins only: another user may get the name.

        :raises UserRejected: there is no user of that name, or the configuration defines it.
        :raises StateError: nothing was changed.
        """
        self._require_not_configured(name)
        with self._database.write() as connection:
            user = _stored(connection, name).user
            connection.execute(db.user.delete().where(db.user.c.name == name))
            connection.execute(db.stored_object.delete().where(db.stored_object.c.user == name))
            self._audit(connection, actor, "user.removed", name, _public(user))

    def _require_not_configured(self, name: str) -> None:
        if name in self._configured:
            raise UserRejected(f"The user {name} is defined in the configuration; change it there.")

    def _audit(
        self, connection: sa.Connection, actor: str, kind: str, subject: str, detail: dict[str, Any] | None = None
    ) -> None:
        db.add_event(connection, self._clock(), actor, kind, subject, detail)
        # Not a counter: in a database restored from a backup, the same number could denote other users.
        db.set_meta(connection, VERSION_KEY, secrets.token_hex(8))


def _stored(connection: sa.Connection, name: str) -> Account:
    row = connection.execute(_BY_NAME, {"user_name": name}).mappings().first()
    if row is None:
        raise UserRejected(f"There is no user {name}.")
    return _account(row)


def _account(row: Any) -> Account:
    try:
        return Account(user_of(row), row["created_at"], row["updated_at"])
    except ValueError as exc:
        raise UserRejected(f"The user {row['name']} was saved by a newer release: {exc}.") from exc


def _public(user: User) -> dict[str, Any]:
    """Return what the audit trail records of a user."""
    limits = [str(limit) for limit in user.limits]
    return {**asdict(user), "limits": limits, "models": list(user.models)}


def _validate(user: User) -> None:
    if not NAME.fullmatch(user.name):
        raise UserRejected("A name has 1 to 64 characters: letters and digits, and after the first also . _ @ + and -.")
    if user.max_concurrent is not None and user.max_concurrent < 1:
        raise UserRejected("max_concurrent must be at least 1.")
    if any(not pattern or not pattern.isprintable() for pattern in user.models):
        raise UserRejected("A model pattern must consist of visible characters, such as gpt-5*.")
