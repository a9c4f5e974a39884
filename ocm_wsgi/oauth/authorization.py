"""Signing in at OpenAI's OAuth issuer: device codes, authorization URLs, exchanging a code for tokens, revocation.

Stateless; accesses no files. Refusals are raised as :class:`~ocm_wsgi.errors.LoginFailed` with a message for people.

Source: the Codex client (``codex-rs/login``), RFC 6749 section 4.1, RFC 7636, RFC 7009. The device code flow is
OpenAI's own, not RFC 8628's.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ocm_wsgi.errors import CredentialError, LoginFailed
from ocm_wsgi.oauth.http_client import ConnectionSettings, IssuerResponse, NoResponse, post
from ocm_wsgi.oauth.refresh import CLIENT_ID, ISSUER, TokenGrant, read_grant

SCOPE = "openid profile email offline_access api.connectors.read api.connectors.invoke"
#: Allowed by the issuer. Nothing listens there: the browser usually runs on another machine, so the user copies the URL
#: from its address bar.
REDIRECT_URI = "http://127.0.0.1:1455/auth/callback"
DEVICE_CODE_SECONDS = 15 * 60
#: The issuer specifies how long to wait between two polls. RFC 8628 section 3.2 has 5 s as the default.
DEFAULT_INTERVAL_SECONDS = 5.0
SHORTEST_INTERVAL_SECONDS = 1.0
LONGEST_INTERVAL_SECONDS = 60.0
REVOCATION_SECONDS = 10.0

_DENIED = frozenset({"access_denied", "authorization_declined", "authorization_denied"})
_EXPIRED = frozenset({"expired_token", "device_code_expired", "deviceauth_expired"})


@dataclass(frozen=True)
class DeviceCode:
    """A device sign-in that waits for the owner's approval.

    :ivar user_code: the code that the owner enters at ``verification_url``.
    :ivar interval_seconds: to wait between two polls.
    """

    verification_url: str
    user_code: str
    interval_seconds: float
    device_auth_id: str = field(repr=False)


@dataclass(frozen=True)
class AuthorizationRequest:
    """A sign-in with a browser.

    :ivar url: the page at which the owner signs in.
    """

    url: str = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True)
class AuthorizationCode:
    """A code that can be exchanged for tokens, once."""

    code: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str


class LoginPending(Exception):
    """The owner has not approved the device sign-in yet."""


@dataclass(frozen=True)
class IssuerClient:
    """A client of an OAuth issuer.

    :ivar connection: how to connect to it.
    """

    connection: ConnectionSettings
    issuer: str = ISSUER
    client_id: str = CLIENT_ID

    def device_code(self) -> DeviceCode:
        """Request a device code.

        :raises LoginFailed: the issuer gave none.
        """
        response = self._post("/api/accounts/deviceauth/usercode", json={"client_id": self.client_id})
        if response.status == 404:
            raise LoginFailed(
                "Sign-in by device code is not enabled. Enable it (ChatGPT, Settings, Security; in a workspace its "
                "administrator does), or use --browser, which does not need it.",
                code="device_login_disabled",
            )
        if not response.is_success:
            raise _refused(response, "a device code")
        members = response.members or {}
        device_auth_id, user_code = members.get("device_auth_id"), members.get("user_code", members.get("usercode"))
        if not isinstance(device_auth_id, str) or not isinstance(user_code, str):
            raise _unparsable("the device code")
        return DeviceCode(
            verification_url=f"{self.issuer}/codex/device",
            user_code=user_code,
            interval_seconds=_interval(members.get("interval")),
            device_auth_id=device_auth_id,
        )

    def poll(self, device: DeviceCode) -> AuthorizationCode:
        """Return the authorization code of an approved device sign-in.

        :raises LoginPending: it is not approved yet.
        :raises LoginFailed: it was declined or has expired; or, with code ``unreachable``, the issuer is unreachable.
        """
        members = {"device_auth_id": device.device_auth_id, "user_code": device.user_code}
        response = self._post("/api/accounts/deviceauth/token", json=members)
        if not response.is_success:
            _raise_unless_pending(response)
            raise LoginPending
        payload = response.members or {}
        code, verifier = payload.get("authorization_code"), payload.get("code_verifier")
        if not isinstance(code, str) or not isinstance(verifier, str):
            raise _unparsable("the device sign-in")
        return AuthorizationCode(code, verifier, f"{self.issuer}/deviceauth/callback")

    def authorization_request(self) -> AuthorizationRequest:
        """Return a new request for a sign-in with a browser. Sends nothing."""
        verifier, state = secrets.token_urlsafe(64), secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
            "state": state,
            "originator": "codex_cli_rs",
        }
        return AuthorizationRequest(f"{self.issuer}/oauth/authorize?{urlencode(query)}", state, verifier)

    def exchange(self, authorization: AuthorizationCode) -> TokenGrant:
        """Exchange a code for all three tokens.

        :raises LoginFailed: the code was not accepted, or a token is missing.

        Source: RFC 6749 section 4.1.3.
        """
        form = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": authorization.code,
            "redirect_uri": authorization.redirect_uri,
            "code_verifier": authorization.verifier,
        }
        try:
            grant = read_grant(self._post("/oauth/token", form=form))
        except CredentialError as exc:
            raise LoginFailed(
                "OpenAI did not accept the sign-in. A code works once, for a few minutes. Start again.",
                code="code_refused",
                detail=exc.detail,
            ) from None
        if None in (grant.id_token, grant.access_token, grant.refresh_token):
            raise _unparsable("the tokens")
        return grant

    def revoke(self, refresh_token: str) -> None:
        """Revoke a sign-in.

        :raises LoginFailed: the issuer is unreachable or refused.

        Source: RFC 7009.
        """
        members = {"token": refresh_token, "token_type_hint": "refresh_token", "client_id": self.client_id}
        response = self._post("/oauth/revoke", json=members, timeout_seconds=REVOCATION_SECONDS)
        if not response.is_success:
            raise _refused(response, "the revocation")

    def _post(self, path: str, **options: Any) -> IssuerResponse:
        try:
            return post(self.issuer + path, self.connection, **options)
        except NoResponse as exc:
            raise LoginFailed(
                f"{urlsplit(self.issuer).hostname} cannot be reached. "
                "Check this machine's network, and `detour` and `certificate` in the configuration.",
                code="unreachable",
                detail=str(exc),
            ) from None


def authorization_code(pasted: str, request: AuthorizationRequest) -> AuthorizationCode:
    """Return the code in the URL that the browser was redirected to at the end of a sign-in.

    :param pasted: that URL, or only its query.
    :raises LoginFailed: it is another URL, belongs to another sign-in, or reports that the owner declined.
    """
    text = pasted.strip()
    query = {name: values[0] for name, values in parse_qs(urlsplit(text).query or text).items()}
    if "error" in query:
        raise _declined(query)
    if "code" not in query or "state" not in query:
        raise LoginFailed(
            "This is not the URL at which the sign-in ends. "
            f"It begins with {REDIRECT_URI}?code= and the browser cannot load the page; copy the whole URL.",
            code="not_the_callback",
        )
    if not secrets.compare_digest(query["state"].encode(), request.state.encode()):
        raise LoginFailed(
            "This URL belongs to another sign-in. Open the URL shown above, and paste the one it leads to.",
            code="wrong_state",
        )
    return AuthorizationCode(query["code"], request.verifier, REDIRECT_URI)


def _declined(query: Mapping[str, str]) -> LoginFailed:
    if query["error"] in _DENIED:
        return LoginFailed("The sign-in was declined in the browser. Nothing was changed.", code="denied")
    # The rest of the message comes from pasted text and is not shown.
    return LoginFailed("OpenAI ended the sign-in with an error. Start again.", code="refused")


def _raise_unless_pending(response: IssuerResponse) -> None:
    """Raise unless the sign-in is pending: 403 and 404 without a known code, as in the Codex client."""
    code = response.error_code
    if code in _DENIED:
        raise LoginFailed("The sign-in was declined. Nothing was changed.", code="denied")
    if code in _EXPIRED:
        raise device_code_expired()
    if response.status not in (403, 404):
        raise _refused(response, "the device sign-in")


def device_code_expired() -> LoginFailed:
    """Return the error for a device code that was not entered in time."""
    return LoginFailed(
        f"The code was not entered within {DEVICE_CODE_SECONDS // 60} minutes and has expired. Start again.",
        code="expired",
    )


def _refused(response: IssuerResponse, what: str) -> LoginFailed:
    if response.status == 429:
        return LoginFailed(
            "OpenAI limits the number of sign-ins. Try again in a few minutes.",
            code="too_many",
            detail=str(response),
        )
    if response.status >= 500:
        return LoginFailed(
            "OpenAI's sign-in service is failing. Try again shortly.", code="unreachable", detail=str(response)
        )
    return LoginFailed(f"OpenAI refused {what}. Start again.", code="refused", detail=str(response))


def _unparsable(what: str) -> LoginFailed:
    return LoginFailed(f"OpenAI's response about {what} could not be parsed.", code="misunderstood")


def _interval(value: object) -> float:
    """Return the polling interval, which is sent as a string of seconds."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else DEFAULT_INTERVAL_SECONDS
    except ValueError:
        seconds = DEFAULT_INTERVAL_SECONDS
    # In this order: NaN compares as neither smaller nor larger.
    return max(SHORTEST_INTERVAL_SECONDS, min(LONGEST_INTERVAL_SECONDS, seconds))
