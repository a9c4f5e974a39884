"""Signing in to the dashboard, and the rate limit on failed sign-ins. No Flask."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from ocm_wsgi.errors import AuthenticationFailed, SignInThrottled
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.user import User

#: Failed sign-ins of the last ``THROTTLE_SECONDS`` count: this many are allowed from one address, and from all.
THROTTLE_SECONDS = 15 * 60
MAX_FAILURES_PER_ADDRESS = 10
MAX_FAILURES = 300

_FAILED = "signin.failed"


class SignIns:
    """Signs users in, and throttles guessing. Sign-ins are recorded in the audit trail, and failures are counted there.

    Failures of strangers keep nobody out who has signed in before: to a browser in which a user has signed in, neither
    the failures of its address nor those of all addresses count for that user, only those of such browsers.

    :param clock: returns Unix seconds.
    """

    def __init__(self, database: Database, users: UserDirectory, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._users = users
        self._clock = clock

    def sign_in(self, bearer_token: str, address: str, *, known_user: str = "") -> User:
        """Return the user of a bearer token.

        :param address: the client's address; ``""`` if unknown.
        :param known_user: the user who has signed in with this browser before, or ``""``.
        :raises AuthenticationFailed: the token is unknown, or the user is disabled or expired.
        :raises SignInThrottled: too many sign-ins have failed recently. It does not reveal whether the token is valid.
        :raises StateError: users cannot be looked up, or failures cannot be counted.
        """
        user, failure = None, None
        try:
            user = self._users.authenticate(bearer_token)
        except AuthenticationFailed as exc:
            failure = exc
        now = self._clock()
        with self._database.write() as connection:
            subject = self._subject(connection, user, address, known_user, now)
            db.add_event(connection, now, user.name if user else "", "signin" if user else _FAILED, subject)
        if user is None:
            raise failure or AuthenticationFailed("You are not signed in.")
        return user

    def sign_out(self, user: User, address: str) -> None:
        """Record in the audit trail that a user has signed out."""
        with self._database.write() as connection:
            db.add_event(connection, self._clock(), user.name, "signout", address)

    def _subject(self, connection: sa.Connection, user: User | None, address: str, known_user: str, now: float) -> str:
        """Return whose failures the sign-in counts among, if there have been too few for it to be refused."""
        if known_user and (user is None or user.name == known_user):
            subject = f"a browser of {known_user}"
            if _failures(connection, subject, now)[1] < MAX_FAILURES_PER_ADDRESS:
                return subject
        total, of_address = _failures(connection, address, now)
        if total >= MAX_FAILURES or of_address >= MAX_FAILURES_PER_ADDRESS:
            raise SignInThrottled(
                "Too many failed sign-ins. Wait 15 minutes, then try again.",
                retry_after_seconds=THROTTLE_SECONDS,
            )
        return address


def _failures(connection: sa.Connection, subject: str, now: float) -> tuple[int, int]:
    """Return the number of recent failures, in total and of one subject."""
    event = db.event.c
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((event.subject == subject, 1), else_=0)), 0)
    ).where(event.at > now - THROTTLE_SECONDS, event.kind == _FAILED)
    total, of_subject = connection.execute(query).one()
    return int(total), int(of_subject)
