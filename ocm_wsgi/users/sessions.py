"""Sessions of the dashboard, as signed cookies. No Flask.

The cookie holds the user's name and a fingerprint of their bearer token's digest. Both are checked at every request, so
rotating the token and disabling, expiry or removal of the user end the session immediately, in every process, without
a session store. Only sessions that were ended by signing out are stored, until their cookies expire.
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

from itsdangerous import BadSignature, URLSafeTimedSerializer

from ocm_wsgi.errors import AuthenticationFailed, StateError
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.files import NewFile, make_private_folder, sync_folder
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.tokens import token_digest
from ocm_wsgi.users.user import User

#: A session ends this long after the sign-in, whether it was used or not.
LIFETIME_SECONDS = 7 * 24 * 3600
#: How long a browser is known after a sign-in; see :class:`~ocm_wsgi.users.sign_ins.SignIns`.
KNOWN_SECONDS = 180 * 24 * 3600

_SECRET_BYTES = 32
_SESSION_SALT = "ocm session"
_KNOWN_SALT = "ocm known browser"
# Keys in ``meta``; the values are when the sessions ended, in Unix seconds.
_ENDED = "session_ended:"


class Sessions:
    """Creates and checks the cookies. Safe to create before a fork: the first process that needs the secret creates it.

    :param state_path: the folder of the secret, which is stored in ``cookie.key`` (0600).
    :param database: stores which sessions have ended.
    :param clock: returns Unix seconds.
    """

    def __init__(
        self, state_path: Path, users: UserDirectory, database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = state_path / "cookie.key"
        self._users = users
        self._database = database
        self._clock = clock

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

        :raises AuthenticationFailed: the cookie is invalid or has expired, its session has ended, or the user may no
            longer sign in.
        :raises StateError: the users or the ended sessions cannot be looked up.
        """
        secret = self._secret()
        content = _read(secret, cookie)
        if content is None or "name" not in content:
            raise AuthenticationFailed("You are not signed in.")
        expected = str(content["token"])
        user = self._users.holder(
            str(content["name"]), lambda digest: hmac.compare_digest(_fingerprint(secret, digest), expected)
        )
        with self._database.read() as connection:
            if db.get_meta(connection, _ended_key(content)) is not None:
                raise AuthenticationFailed("You have signed out.")
        return user

    def end(self, cookie: str) -> None:
        """End the session of a cookie, and of every copy of it.

        :raises StateError: it could not be stored; the session has not ended.
        """
        content = _read(self._secret(), cookie)
        if content is None or "name" not in content:
            return
        now = int(self._clock())
        expired = db.meta.delete().where(
            db.meta.c.key.startswith(_ENDED, autoescape=True), db.meta.c.value < str(now - LIFETIME_SECONDS)
        )
        with self._database.write() as connection:
            connection.execute(expired)
            db.set_meta(connection, _ended_key(content), str(now))

    def known_browser(self, user: User) -> str:
        """Return the cookie by which a browser is recognised in which a user has signed in. It grants nothing else."""
        return _sign(self._secret(), {"known": user.name}, _KNOWN_SALT)

    def known_user(self, cookie: str) -> str:
        """Return the name of the user who has signed in with a browser before; ``""`` if none has."""
        content = _read(self._secret(), cookie, _KNOWN_SALT, KNOWN_SECONDS)
        return "" if content is None else str(content["known"])

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
            secret = self._read_secret()
            if secret is None:
                self._make_secret()
                secret = self._read_secret()
        except OSError as exc:
            raise StateError("Sign-in is not possible at the moment.", detail=str(exc)) from exc
        if secret is None:
            raise StateError("Sign-in is not possible at the moment.", detail=f"{self._path} is too short")
        return secret

    def _read_secret(self) -> bytes | None:
        """Return the secret; ``None`` if there is none, or one so short that cookies could be forged."""
        try:
            secret = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return secret if len(secret) >= _SECRET_BYTES else None

    def _make_secret(self) -> None:
        """Create the secret file in one step, unless another process has created it in the meantime.

        One that is too short, for instance because an earlier release did not sync it before a power failure, is
        replaced.
        """
        make_private_folder(self._path.parent)
        with NewFile(self._path, temporary=self._path.with_name(f"cookie.{secrets.token_hex(8)}.new")) as new:
            new.write(secrets.token_bytes(_SECRET_BYTES))
            try:
                new.link()
            except FileExistsError:
                if self._read_secret() is None:
                    new.replace()
        with contextlib.suppress(OSError):  # not every file system can do that
            sync_folder(self._path.parent)


def _ended_key(content: dict[str, Any]) -> str:
    return _ENDED + hashlib.sha256(str(content["nonce"]).encode()).hexdigest()


def _serializer(secret: bytes, salt: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        secret, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )


def _sign(secret: bytes, content: dict[str, str], salt: str = _SESSION_SALT) -> str:
    return str(_serializer(secret, salt).dumps(content))


def _read(
    secret: bytes, cookie: str, salt: str = _SESSION_SALT, lifetime_seconds: int = LIFETIME_SECONDS
) -> dict[str, Any] | None:
    try:
        content = _serializer(secret, salt).loads(cookie, max_age=lifetime_seconds)
    except BadSignature:
        return None
    return content if isinstance(content, dict) else None


def _fingerprint(secret: bytes, digest: str) -> str:
    """Return what represents a token in a cookie. Without the secret, not even a weak token can be guessed from it."""
    return hmac.new(secret, b"token " + digest.encode(), hashlib.sha256).hexdigest()[:32]
