"""Sessions of the dashboard: signed cookies, and the rate limit on failed sign-ins. No Flask.

The cookie holds the user's name and a fingerprint of their bearer token's digest. Both are checked at every request, so
rotating the token and disabling, expiry or removal of the user end the session immediately, in every process, without
a session store.
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
from ocm_wsgi.storage.files import NewFile, make_private_folder
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.tokens import token_digest
from ocm_wsgi.users.user import User

#: A session ends this long after the sign-in, whether it was used or not.
LIFETIME_SECONDS = 7 * 24 * 3600

#: Failed sign-ins of the last ``THROTTLE_SECONDS`` count: this many are allowed from one address, and from all.
THROTTLE_SECONDS = 15 * 60
MAX_FAILURES_PER_ADDRESS = 10
MAX_FAILURES = 300

_FAILED = "signin.failed"
_SECRET_BYTES = 32


class Sessions:
    """Creates and checks the cookies. Safe to create before a fork: the first process that needs the secret creates it.

    :param state_path: the folder of the secret, which is stored in ``cookie.key`` (0600).
    """

    def __init__(self, state_path: Path, users: UserDirectory) -> None:
        self._path = state_path / "cookie.key"
        self._users = users

    def begin(self, user: User, bearer_token: str) -> str:
        """Return the cookie of a user who has presented their bearer token."""
        secret = self._secret()
        fingerprint = _fingerprint(secret, token_digest(bearer_token))
        return _sign(secret, {"name": user.name, "token": fingerprint, "nonce": secrets.token_urlsafe(12)})

    def visit(self) -> str:
        """Return a cookie for a visitor who is not signed in: it binds forms to a browser, and grants nothing."""
        return _sign(self._secret(), {"nonce": secrets.token_urlsafe(12)})

    def user(self, cookie: str) -> User:
        """Return the user who is signed in.

        :raises AuthenticationFailed: the cookie is invalid or has expired, or the user may no longer sign in.
        :raises StateError: the users cannot be looked up.
        """
        secret = self._secret()
        content = _read(secret, cookie)
        if content is None or "name" not in content:
            raise AuthenticationFailed("You are not signed in.")
        expected = str(content["token"])
        return self._users.holder(
            str(content["name"]), lambda digest: hmac.compare_digest(_fingerprint(secret, digest), expected)
        )

    def is_ours(self, cookie: str) -> bool:
        """Return whether a cookie was issued by this service and has not expired."""
        return _read(self._secret(), cookie) is not None

    def form_token(self, cookie: str) -> str:
        """Return the CSRF token of every form: without it, no other site can submit one in this browser's name."""
        return hmac.new(self._secret(), b"form " + cookie.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, cookie: str, text: str) -> bool:
        """Return whether a form was served to the browser that sent the cookie."""
        return self.is_ours(cookie) and hmac.compare_digest(self.form_token(cookie).encode(), text.encode())

    def _secret(self) -> bytes:
        """Return the secret, read from disk each time: removing the file signs everybody out, in all processes."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise StateError("Sign-in is not possible at the moment.", detail=str(exc)) from exc
        try:
            self._make_secret()
            return self._path.read_bytes()
        except OSError as exc:
            raise StateError("Sign-in is not possible at the moment.", detail=str(exc)) from exc

    def _make_secret(self) -> None:
        """Create the secret file in one step, unless another process has created it in the meantime."""
        make_private_folder(self._path.parent)
        with NewFile(self._path, temporary=self._path.with_name(f"cookie.{secrets.token_hex(8)}.new")) as new:
            new.write(secrets.token_bytes(_SECRET_BYTES), sync=False)
            with contextlib.suppress(FileExistsError):
                new.link()


class SignIns:
    """Signs users in, and throttles guessing. Sign-ins are recorded in the audit trail, and failures are counted there.

    :param clock: returns Unix seconds.
    """

    def __init__(self, database: Database, users: UserDirectory, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._users = users
        self._clock = clock

    def sign_in(self, bearer_token: str, address: str) -> User:
        """Return the user of a bearer token.

        :param address: the client's address; ``""`` if unknown.
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
            self._check_rate_limit(connection, address, now)
            db.add_event(connection, now, user.name if user else "", "signin" if user else _FAILED, address)
        if user is None:
            raise failure or AuthenticationFailed("You are not signed in.")
        return user

    def sign_out(self, user: User, address: str) -> None:
        """Record in the audit trail that a user has signed out."""
        with self._database.write() as connection:
            db.add_event(connection, self._clock(), user.name, "signout", address)

    def _check_rate_limit(self, connection: sa.Connection, address: str, now: float) -> None:
        event = db.event.c
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((event.subject == address, 1), else_=0)), 0)
        ).where(event.at > now - THROTTLE_SECONDS, event.kind == _FAILED)
        total, of_address = connection.execute(query).one()
        if total >= MAX_FAILURES or of_address >= MAX_FAILURES_PER_ADDRESS:
            raise SignInThrottled(
                "Too many failed sign-ins. Wait 15 minutes, then try again.",
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
    """Return what represents a token in a cookie. Without the secret, not even a weak token can be guessed from it."""
    return hmac.new(secret, b"token " + digest.encode(), hashlib.sha256).hexdigest()[:32]
