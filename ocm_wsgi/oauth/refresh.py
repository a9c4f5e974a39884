"""Exchanging a refresh token at the token endpoint of OpenAI's OAuth issuer. Stateless; accesses no files.

Source: RFC 6749 sections 5 and 6, with a JSON body instead of a form, as the Codex client sends.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import NoReturn
from urllib.parse import urlsplit

from ocm_wsgi.errors import CredentialRejected, CredentialUnavailable
from ocm_wsgi.oauth.http_client import ConnectionSettings, IssuerResponse, NoResponse, post

ISSUER = "https://auth.openai.com"
#: The public client that Codex itself is registered as.
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"

#: Error codes of permanent refusals, each with a reason for messages.
REFUSALS = {
    "refresh_token_expired": "the sign-in has expired",
    "refresh_token_reused": "its refresh token was already used by another program",
    "refresh_token_invalidated": "the sign-in was revoked",
}
_VISIBLE = re.compile(r"[\x21-\x7e]+")


class RefreshReason(Enum):
    """Why tokens are refreshed; the values are sent to the issuer."""

    PROACTIVE = "proactive_expiry"
    UNAUTHORIZED = "unauthorized_recovery"


class RefreshRefused(CredentialRejected):
    """The issuer permanently refused this refresh token. The owner must sign in again.

    :ivar oauth_code: the issuer's error code; ``unauthorized`` if there was none that is safe to show.
    """

    def __init__(self, oauth_code: str) -> None:
        self.oauth_code = oauth_code
        reason = REFUSALS.get(oauth_code, "OpenAI refused to refresh it")
        super().__init__(
            f"The owner's sign-in to OpenAI has ended: {reason}. "
            "The owner must sign in again with `ocm login`, or `codex login`.",
            detail=f"the token endpoint permanently refused the refresh token: {oauth_code}",
        )


class RefreshFailed(CredentialUnavailable):
    """The issuer could not be reached, or its response was unusable. The refresh token may still be valid."""

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(
            "OpenAI's sign-in service did not refresh the owner's access token. Try again shortly.",
            detail=detail,
            retry_after_seconds=retry_after_seconds,
        )


@dataclass(frozen=True)
class Provenance:
    """The issuer and the OAuth client of a pair of tokens; ``None`` where unknown."""

    issuer: str | None = None
    client_id: str | None = None


@dataclass(frozen=True)
class TokenEndpoint:
    """The endpoint at which a refresh token is presented, and the client that presents it."""

    url: str
    client_id: str


@dataclass(frozen=True)
class TokenGrant:
    """The tokens of a successful exchange; ``None`` for each one that does not change. ``repr`` shows none of them."""

    id_token: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)

    def tokens(self) -> dict[str, str]:
        """Return the new tokens by their names in the response and in ``auth.json``."""
        named = {
            "id_token": self.id_token,
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
        }
        return {name: token for name, token in named.items() if token is not None}


def token_endpoint(
    provenance: Provenance,
    *,
    auth_base_url: str = ISSUER,
    token_url: str | None = None,
    client_id: str | None = None,
) -> TokenEndpoint:
    """Return the endpoint for a refresh token: its issuer's, or the one that the owner has configured.

    ``token_url`` takes precedence, then an ``auth_base_url`` that is not OpenAI's, because setting it (for a test or a
    private gateway) is meant for every request, then the issuer named in the file, then OpenAI's. A refresh token is
    bound to the client it was issued to (RFC 6749 section 6), so the file's client takes precedence over ``client_id``.

    :param token_url: the whole URL, from ``CODEX_REFRESH_TOKEN_URL_OVERRIDE``.
    :param client_id: from ``CODEX_APP_SERVER_LOGIN_CLIENT_ID``.
    :raises CredentialRejected: the file names an issuer to which a token would be sent in clear text.
    """
    chosen_client = provenance.client_id or client_id or CLIENT_ID
    if token_url:
        return TokenEndpoint(token_url, chosen_client)
    base_url = auth_base_url.rstrip("/")
    if base_url == ISSUER and provenance.issuer is not None:
        base_url = provenance.issuer.rstrip("/")
        _require_confidential(base_url)
    return TokenEndpoint(f"{base_url}/oauth/token", chosen_client)


def exchange_refresh_token(
    refresh_token: str,
    endpoint: TokenEndpoint,
    *,
    reason: RefreshReason,
    ssl_context: ssl.SSLContext,
    proxy_url: str | None = None,
) -> TokenGrant:
    """Present a refresh token, once. After any exception the token may be used up: never retry blindly.

    :param proxy_url: ``http://``, ``socks5://`` or ``socks5h://``; ``None`` connects directly. The environment's
        proxies and ``.netrc`` are ignored.
    :raises RefreshRefused: the issuer permanently refused this token.
    :raises RefreshFailed: there was no response within about 30 seconds, or it was unusable.

    Source: RFC 6749 section 6.
    """
    members = {
        "client_id": endpoint.client_id,
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "refresh_reason": reason.value,
    }
    try:
        response = post(endpoint.url, ConnectionSettings(ssl_context, proxy_url), json=members)
    except NoResponse as exc:
        raise RefreshFailed(f"no response from the token endpoint: {exc}") from None
    return read_grant(response)


def read_grant(response: IssuerResponse) -> TokenGrant:
    """Return the tokens in a response of the token endpoint.

    :raises RefreshRefused: it is a permanent refusal.
    :raises RefreshFailed: it contains no tokens for any other reason.
    """
    if not response.is_success:
        _raise_refusal(response)
    if response.members is None:
        raise RefreshFailed(f"the token endpoint answered {response.status} without a JSON object")
    tokens = {name: response.members.get(name) for name in ("id_token", "access_token", "refresh_token")}
    for name, token in tokens.items():
        if token is not None and not (isinstance(token, str) and _VISIBLE.fullmatch(token)):
            raise RefreshFailed(f"the token endpoint's {name} is not a token")
    return TokenGrant(**tokens)


def _raise_refusal(response: IssuerResponse) -> NoReturn:
    """Distinguish permanent refusals from temporary failures, as the Codex client does.

    :raises RefreshRefused: one of the three permanent codes, any 401, or ``invalid_grant`` with 400.
    :raises RefreshFailed: anything else.
    """
    code = response.error_code
    if code in REFUSALS or response.status == 401 or (response.status == 400 and code == "invalid_grant"):
        raise RefreshRefused(code or "unauthorized")
    raise RefreshFailed(f"the token endpoint answered {response}")


def _require_confidential(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise CredentialRejected(
        "The owner's credential names an issuer that does not use HTTPS. The owner must sign in again.",
        detail="tokens.oauth_provenance.issuer is not an https:// URL",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
