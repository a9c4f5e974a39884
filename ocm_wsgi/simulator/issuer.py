"""The OAuth issuer's state: accounts, access tokens with their expiry, and single-use refresh tokens.

Independent of HTTP; ``oauth.py`` has the endpoints.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: The client id of Codex (CODEX.md 1.5).
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
AUTH_CLAIM = "https://api.openai.com/auth"
PROFILE_CLAIM = "https://api.openai.com/profile"


@dataclass(frozen=True)
class Account:
    """A ChatGPT account, with the claims of its tokens."""

    account_id: str = "acct-owner"
    plan: str = "plus"
    fedramp: bool = False

    @property
    def email(self) -> str:
        return f"{self.account_id}@example.com"

    @property
    def user_id(self) -> str:
        return f"user-{hashlib.sha256(self.account_id.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class AccessToken:
    """The state of an access token. ``state`` is ``live`` or ``invalidated``."""

    account: Account
    expires_at: float
    state: str = "live"


@dataclass(frozen=True)
class RefreshToken:
    """The state of a refresh token. ``state`` is ``live``, ``reused``, ``expired`` or ``invalidated``."""

    account: Account
    state: str = "live"


@dataclass(frozen=True)
class Tokens:
    """A set of tokens issued by the token endpoint."""

    id_token: str
    access_token: str
    refresh_token: str


@dataclass(frozen=True)
class Authorization:
    """An authorization code, valid for one exchange.

    :ivar challenge: the PKCE challenge, method S256.
    """

    account: Account
    redirect_uri: str
    challenge: str


class RefreshRefused(Exception):
    """The refresh token is not live. ``state`` is its state, or ``unknown`` if it was never issued."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


class Issuer:
    """Issues, rotates, expires and revokes. Every method is thread-safe.

    :ivar token_lifetime: seconds until new access tokens expire.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.token_lifetime = 3600.0
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._codes: dict[str, Authorization] = {}
        self._api_keys: set[str] = set()
        self._lock = threading.RLock()

    def issue(self, account: Account, *, issuer: str, expires_in: float | None = None) -> Tokens:
        """Issue a set of tokens.

        :param issuer: the issuer's URL for the tokens' claims.
        :param expires_in: seconds, possibly negative; by default :attr:`token_lifetime`.
        """
        now = self.clock()
        expires_at = now + (self.token_lifetime if expires_in is None else expires_in)
        common = {"iss": issuer, "sub": f"auth0|{account.user_id}", "iat": int(now), "exp": int(expires_at)}
        tokens = Tokens(
            id_token=_jwt({**common, "aud": [CLIENT_ID], "email": account.email, AUTH_CLAIM: _claims(account)}),
            access_token=_jwt(
                {
                    **common,
                    "aud": ["https://api.openai.com/v1"],
                    "client_id": CLIENT_ID,
                    "scp": ["openid", "profile", "email", "offline_access"],
                    AUTH_CLAIM: _claims(account),
                    PROFILE_CLAIM: {"email": account.email, "email_verified": True},
                }
            ),
            refresh_token=f"rt_{secrets.token_urlsafe(48)}",
        )
        with self._lock:
            self._access[tokens.access_token] = AccessToken(account, expires_at)
            self._refresh[tokens.refresh_token] = RefreshToken(account)
        return tokens

    def access(self, access_token: str) -> AccessToken | None:
        """Return the state of an access token, or ``None`` if it was never issued."""
        with self._lock:
            return self._access.get(access_token)

    def use_refresh_token(self, refresh_token: str) -> Account:
        """Consume a refresh token and return its account.

        :raises RefreshRefused: the token is not live.
        """
        with self._lock:
            account = self.check_refresh_token(refresh_token)
            self._refresh[refresh_token] = RefreshToken(account, "reused")
            return account

    def check_refresh_token(self, refresh_token: str) -> Account:
        """Like :meth:`use_refresh_token`, but leave the token live."""
        with self._lock:
            known = self._refresh.get(refresh_token)
            if known is None or known.state != "live":
                raise RefreshRefused(known.state if known else "unknown")
            return known.account

    def expire(self, token: str | None) -> None:
        """Expire an access token, whatever its ``exp`` claim, or a refresh token; ``None`` for all access tokens."""
        with self._lock:
            for each, access in self._access.items():
                if token in (None, each):
                    self._access[each] = replace(access, expires_at=self.clock() - 1)
            if token in self._refresh:
                self._refresh[token] = replace(self._refresh[token], state="expired")

    def revoke(self, token: str) -> None:
        """Invalidate one token; an unknown one is not an error (RFC 7009 section 2.2)."""
        with self._lock:
            if token in self._access:
                self._access[token] = replace(self._access[token], state="invalidated")
            if token in self._refresh:
                self._refresh[token] = replace(self._refresh[token], state="invalidated")

    def revoke_all(self) -> None:
        """Invalidate every access token and every live refresh token."""
        with self._lock:
            for token in (*self._access, *(each for each, known in self._refresh.items() if known.state == "live")):
                self.revoke(token)

    def add_code(self, authorization: Authorization) -> str:
        code = f"ac_{secrets.token_urlsafe(32)}"
        with self._lock:
            self._codes[code] = authorization
        return code

    def use_code(self, code: str, *, redirect_uri: str, verifier: str) -> Account | None:
        """Consume a code and return its account, or ``None`` if anything about it is invalid."""
        with self._lock:
            authorization = self._codes.pop(code, None)
        if authorization is None or authorization.redirect_uri != redirect_uri:
            return None
        return authorization.account if challenge_of(verifier) == authorization.challenge else None

    def new_api_key(self) -> str:
        api_key = f"sk-proj-{secrets.token_urlsafe(48)}"
        with self._lock:
            self._api_keys.add(api_key)
        return api_key

    def has_api_key(self, api_key: str) -> bool:
        with self._lock:
            return api_key in self._api_keys


def credential(
    tokens: Tokens, account: Account, *, issuer: str, last_refresh: datetime.datetime | str
) -> dict[str, Any]:
    """Return the content of ``auth.json`` as Codex 0.169 writes it (CODEX.md 1.2).

    :param last_refresh: an aware time, or the literal value.
    """
    if isinstance(last_refresh, datetime.datetime):
        utc = last_refresh.astimezone(datetime.timezone.utc)
        last_refresh = utc.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
    return {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": tokens.id_token,
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "account_id": account.account_id,
            "oauth_provenance": {"issuer": issuer, "client_id": CLIENT_ID},
            "login_owner_id": secrets.token_hex(16),
        },
        "last_refresh": last_refresh,
    }


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a PKCE verifier (RFC 7636 section 4.2)."""
    return _base64url(hashlib.sha256(verifier.encode()).digest())


def token_response(tokens: Tokens, *, expires_in: float, omit: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of the token endpoint's response.

    :param expires_in: the access token's lifetime, in seconds.
    :param omit: names of members to leave out.
    """
    members = {
        "access_token": tokens.access_token,
        "id_token": tokens.id_token,
        "refresh_token": tokens.refresh_token,
        "token_type": "Bearer",
        "expires_in": int(expires_in),
        "scope": "openid profile email offline_access",
    }
    return {name: value for name, value in members.items() if name not in omit}


def _claims(account: Account) -> dict[str, Any]:
    return {
        "chatgpt_account_id": account.account_id,
        "chatgpt_user_id": account.user_id,
        "user_id": account.user_id,
        "chatgpt_plan_type": account.plan,
        "chatgpt_account_is_fedramp": account.fedramp,
    }


def _jwt(claims: Mapping[str, Any]) -> str:
    """Return a JWT with a random signature, as only OpenAI verifies signatures."""
    header = _base64url(json.dumps({"alg": "RS256", "kid": "simulated", "typ": "JWT"}).encode())
    payload = _base64url(json.dumps({**claims, "jti": secrets.token_hex(16)}).encode())
    return f"{header}.{payload}.{_base64url(secrets.token_bytes(64))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
