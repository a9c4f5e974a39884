"""Who is signed in to the dashboard: a signed cookie, and how often a sign-in may fail. No Flask.

The cookie holds the user's name and a fingerprint of their bearer token's digest. It is looked up at every request, so
a new token, disabling, expiry and removal end it at once, everywhere, with no list of sessions to keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from itsdangerous import BadSignature, URLSafeTimedSerializer

from ocm_wsgi.errors import AuthenticationFailed, SignInThrottled, StateError
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.files import NewFile
from ocm_wsgi.users.directory import User, UserDirectory, token_digest

#: Whoever stays away for so long, or is here for so long, signs in again.
LIFETIME_SECONDS = 7 * 24 * 3600

#: Failures that are remembered, for how long, and how many of them there may be.
THROTTLE_SECONDS = 15 * 60
MOST_FAILURES_OF_ADDRESS = 10
MOST_FAILURES = 300

_FAILED = "signin.failed"
_SECRET_BYTES = 32


class Sessions:
    """Makes and reads the cookies. Safe to make before a fork; the secret is made by whichever process needs it first.

    :param state_path: where the secret lies, in ``cookie.key`` (0600).
    """

    def __init__(self, state_path: Path, users: UserDirectory) -> None:
        self._path = state_path / "cookie.key"
        self._users = users

    def begin(self, user: User, bearer_token: str) -> str:
        """Give the cookie of a user who has presented their bearer token."""
        secret = self._secret()
        fingerprint = _fingerprint(secret, token_digest(bearer_token))
        return _sign(secret, {"name": user.name, "token": fingerprint, "nonce": secrets.token_urlsafe(12)})

    def visit(self) -> str:
        """Give the cookie of somebody who is not signed in: it binds forms to a browser, and allows nothing."""
        return _sign(self._secret(), {"nonce": secrets.token_urlsafe(12)})

    def user(self, cookie: str) -> User:
        """Give the user who is signed in.

        :raises AuthenticationFailed: nobody is, or no longer.
        :raises StateError: the users cannot be looked up.
        """
        secret = self._secret()
        content = _read(secret, cookie)
        if content is None or "name" not in content:
            raise AuthenticationFailed("You are not signed in.")
        wanted = str(content["token"])
        return self._users.holder(
            str(content["name"]), lambda digest: hmac.compare_digest(_fingerprint(secret, digest), wanted)
        )

    def is_ours(self, cookie: str) -> bool:
        """Whether a cookie was made here, and is not too old."""
        return _read(self._secret(), cookie) is not None

    def form_token(self, cookie: str) -> str:
        """Give what every form holds, so that no other site can send one in this browser's name."""
        return hmac.new(self._secret(), b"form " + cookie.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, cookie: str, text: str) -> bool:
        """Whether a form was made for the browser that has the cookie."""
        return self.is_ours(cookie) and hmac.compare_digest(self.form_token(cookie).encode(), text.encode())

    def _secret(self) -> bytes:
        """Read it anew each time: where it was removed to sign everybody out, all processes agree."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise StateError("Signing in is not possible at the moment.", detail=str(exc)) from exc
        try:
            self._make_secret()
            return self._path.read_bytes()
        except OSError as exc:
            raise StateError("Signing in is not possible at the moment.", detail=str(exc)) from exc

    def _make_secret(self) -> None:
        """Put it there whole, unless another process has done so meanwhile."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NewFile(self._path, temporary=self._path.with_name(f"cookie.{secrets.token_hex(8)}.new")) as new:
            new.write(secrets.token_bytes(_SECRET_BYTES), sync=False)
            with contextlib.suppress(FileExistsError):
                new.link()


class SignIns:
    """Lets people sign in, and holds up those who guess. What happened is in the audit trail, and counted there.

    :param clock: gives Unix seconds.
    """

    def __init__(self, database: Database, users: UserDirectory, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._users = users
        self._clock = clock

    def sign_in(self, bearer_token: str, address: str) -> User:
        """Give the user of a bearer token.

        :param address: where the request comes from; ``""`` where that is unknown.
        :raises AuthenticationFailed: it is nobody's, or the user is disabled or expired.
        :raises SignInThrottled: too many have failed lately. Then nobody learns whether the token is right.
        :raises StateError: nothing can be looked up or counted.
        """
        user, failure = None, None
        try:
            user = self._users.authenticate(bearer_token)
        except AuthenticationFailed as exc:
            failure = exc
        now = self._clock()
        with self._database.write() as connection:
            self._check_rate_limit(connection, address, now)
            db.add_event(connection, now, user.name if user else "", "signin" if user else _FAILED, address)
        if user is None:
            raise failure or AuthenticationFailed("You are not signed in.")
        return user

    def sign_out(self, user: User, address: str) -> None:
        """Note that a user has gone."""
        with self._database.write() as connection:
            db.add_event(connection, self._clock(), user.name, "signout", address)

    def _check_rate_limit(self, connection: sa.Connection, address: str, now: float) -> None:
        event = db.event.c
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((event.subject == address, 1), else_=0)), 0)
        ).where(event.at > now - THROTTLE_SECONDS, event.kind == _FAILED)
        total, of_address = connection.execute(query).one()
        if total >= MOST_FAILURES or of_address >= MOST_FAILURES_OF_ADDRESS:
            raise SignInThrottled(
                "Too many sign-ins have failed. Wait a quarter of an hour, then try again.",
                retry_after_seconds=THROTTLE_SECONDS,
            )


def _serializer(secret: bytes) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        secret, salt="ocm session", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )


def _sign(secret: bytes, content: dict[str, str]) -> str:
    return str(_serializer(secret).dumps(content))


def _read(secret: bytes, cookie: str) -> dict[str, Any] | None:
    try:
        content = _serializer(secret).loads(cookie, max_age=LIFETIME_SECONDS)
    except BadSignature:
        return None
    return content if isinstance(content, dict) else None


def _fingerprint(secret: bytes, digest: str) -> str:
    """What stands for a token in a cookie: of no use to find the token, even a weak one, without the secret."""
    return hmac.new(secret, b"token " + digest.encode(), hashlib.sha256).hexdigest()[:32]
