"""The token endpoint of OpenAI's OAuth issuer: exchanging a refresh token. Keeps nothing and reads no file.

Source: RFC 6749 sections 5 and 6, with the JSON body that the Codex client sends in place of a form.
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
# The public client that Codex itself is registered as.
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"

# Why the issuer will never take this refresh token again, as the end of a sentence.
REFUSALS = {
    "refresh_token_expired": "the sign-in has expired",
    "refresh_token_reused": "its refresh token was already used by another program",
    "refresh_token_invalidated": "the sign-in was revoked",
}
_VISIBLE = re.compile(r"[\x21-\x7e]+")


class RefreshReason(Enum):
    """Why a refresh is made; the values go over the wire."""

    PROACTIVE = "proactive_expiry"
    UNAUTHORIZED = "unauthorized_recovery"


class RefreshRefused(CredentialRejected):
    """The issuer will not take this refresh token again, ever. The owner must sign in anew.

    :ivar oauth_code: the issuer's error code; ``unauthorized`` when it gave none that is safe to show.
    """

    def __init__(self, oauth_code: str) -> None:
        self.oauth_code = oauth_code
        reason = REFUSALS.get(oauth_code, "OpenAI refused to renew it")
        super().__init__(
            f"The owner's sign-in to OpenAI has ended: {reason}. "
            "The owner must sign in again with `flask ocm login`, or `codex login`.",
            detail=f"the token endpoint refused the refresh token for good: {oauth_code}",
        )


class RefreshFailed(CredentialUnavailable):
    """The issuer could not be asked, or its answer was of no use. The refresh token may still be good."""

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(
            "OpenAI's sign-in service did not renew the owner's access token. Try again shortly.",
            detail=detail,
            retry_after_seconds=retry_after_seconds,
        )


@dataclass(frozen=True)
class Provenance:
    """Who issued a pair of tokens, and to which OAuth client; ``None`` where that is not known."""

    issuer: str | None = None
    client_id: str | None = None


@dataclass(frozen=True)
class TokenEndpoint:
    """Where a refresh token is presented, and in which client's name."""

    url: str
    client_id: str


@dataclass(frozen=True)
class TokenGrant:
    """What a successful exchange gave. Each token is ``None`` when the old one stays in use; ``repr`` shows none."""

    id_token: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)

    def tokens(self) -> dict[str, str]:
        """Return the tokens that were given, by their name in the answer and in ``auth.json``."""
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
    """Decide where a refresh token goes. It is sent to its issuer or to where the owner's configuration says.

    ``token_url`` wins. Then comes an ``auth_base_url`` that is not OpenAI's: whoever sets it, for a test or for a
    gateway of their own, means every request. Then the issuer that the file names, then OpenAI's. A refresh token
    is bound to the client it was issued to (RFC 6749 section 6), so the file's client goes before ``client_id``.

    :param token_url: the whole URL, from ``CODEX_REFRESH_TOKEN_URL_OVERRIDE``.
    :param client_id: from ``CODEX_APP_SERVER_LOGIN_CLIENT_ID``.
    :raises CredentialRejected: the file names an issuer to which a token would travel in clear text.
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
    """Present a refresh token, once. Whatever this raises, the token may have been spent: never repeat it blindly.

    :param proxy_url: ``http://``, ``socks5://`` or ``socks5h://``; ``None`` connects directly. The environment's
        proxies and ``.netrc`` are not looked at.
    :raises RefreshRefused: the issuer will not take this token again.
    :raises RefreshFailed: no answer within about 30 seconds, or none that could be used.

    Source: RFC 6749 section 6.
    """
    members = {
        "client_id": endpoint.client_id,
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "refresh_reason": reason.value,
    }
    try:
        answer = post(endpoint.url, ConnectionSettings(ssl_context, proxy_url), json=members)
    except NoResponse as exc:
        raise RefreshFailed(f"no answer from the token endpoint: {exc}") from None
    return read_grant(answer)


def read_grant(answer: IssuerResponse) -> TokenGrant:
    """Read the tokens in an answer of the token endpoint.

    :raises RefreshRefused: it will not take what was presented again.
    :raises RefreshFailed: it gave none, for any other reason.
    """
    if not answer.is_success:
        _raise_refusal(answer)
    if answer.members is None:
        raise RefreshFailed(f"the token endpoint answered {answer.status} without a JSON object")
    tokens = {name: answer.members.get(name) for name in ("id_token", "access_token", "refresh_token")}
    for name, token in tokens.items():
        if token is not None and not (isinstance(token, str) and _VISIBLE.fullmatch(token)):
            raise RefreshFailed(f"the token endpoint's {name} is not a token")
    return TokenGrant(**tokens)


def _raise_refusal(answer: IssuerResponse) -> NoReturn:
    """Tell what is final from what may pass, as the Codex client does.

    :raises RefreshRefused: one of the three final codes, any 401, or ``invalid_grant`` with 400.
    :raises RefreshFailed: anything else.
    """
    code = answer.error_code
    if code in REFUSALS or answer.status == 401 or (answer.status == 400 and code == "invalid_grant"):
        raise RefreshRefused(code or "unauthorized")
    raise RefreshFailed(f"the token endpoint answered {answer}")


def _require_confidential(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise CredentialRejected(
        "The owner's credential names an issuer that is not reached over HTTPS. The owner must sign in again.",
        detail="tokens.oauth_provenance.issuer is not an https:// URL",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
