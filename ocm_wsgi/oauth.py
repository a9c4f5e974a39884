"""The token endpoint of OpenAI's OAuth issuer: exchanging a refresh token. Keeps nothing and reads no file.

Source: RFC 6749 sections 5 and 6, with the JSON body that the Codex client sends in place of a form.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from ocm_wsgi import __version__
from ocm_wsgi.errors import CredentialRejected, CredentialUnavailable

ISSUER = "https://auth.openai.com"
# The public client that Codex itself is registered as.
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"

CONNECT_TIMEOUT_SECONDS = 10.0
# Silence allowed between two reads, and the time within which the whole answer must have come.
READ_TIMEOUT_SECONDS = 20.0
ANSWER_TIMEOUT_SECONDS = 30.0
# Three tokens take about 6 KiB.
MAX_ANSWER_BYTES = 256 * 1024

# Why the issuer will never take this refresh token again, as the end of a sentence.
REFUSALS = {
    "refresh_token_expired": "the sign-in has expired",
    "refresh_token_reused": "its refresh token was already used by another program",
    "refresh_token_invalidated": "the sign-in was revoked",
}
_VISIBLE = re.compile(r"[\x21-\x7e]+")
# A code is letters and underscores; what holds digits might be a token sent back to us.
_CODE = re.compile(r"[a-z_]{1,64}")


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
            f"The owner's sign-in to OpenAI has ended: {reason}. The owner must sign in again with `codex login`.",
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
    request = requests.Request(
        "POST",
        endpoint.url,
        headers={"User-Agent": f"ocm-wsgi/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"},
        json={
            "client_id": endpoint.client_id,
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "refresh_reason": reason.value,
        },
    )
    try:
        status, octets = _send(request.prepare(), ssl_context, proxy_url)
    except (requests.RequestException, HTTPError, OSError) as exc:
        # The exception's own text may hold a proxy's password.
        raise RefreshFailed(f"no answer from the token endpoint: {type(exc).__name__}") from None
    return _grant(status, _json_object(octets))


class _ContextAdapter(HTTPAdapter):
    """Sends over TLS with one given context, and trusts nobody else."""

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._ssl_context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._ssl_context, **kwargs)

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the inherited method would add certifi's roots to the context. The context verifies."""


def _send(request: requests.PreparedRequest, ssl_context: ssl.SSLContext, proxy_url: str | None) -> tuple[int, bytes]:
    """Send without a session: no cookies, no netrc, no environment, no redirect, and no body read beyond bounds."""
    proxies = {"http": proxy_url, "https": proxy_url} if proxy_url else {}
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    with closing(_ContextAdapter(ssl_context)) as adapter:
        timeout = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        with adapter.send(request, stream=True, timeout=timeout, proxies=proxies) as response:
            octets = b""
            while piece := response.raw.read1(65536, decode_content=True):
                octets += piece
                if len(octets) > MAX_ANSWER_BYTES:
                    raise RefreshFailed("the token endpoint's answer is too large")
                if time.monotonic() > deadline:
                    raise RefreshFailed("the token endpoint took too long to answer")
            return response.status_code, octets


def _json_object(octets: bytes) -> Mapping[str, Any] | None:
    try:
        answer = json.loads(octets)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _grant(status: int, answer: Mapping[str, Any] | None) -> TokenGrant:
    if not 200 <= status < 300:
        _raise_refusal(status, answer or {})
    if answer is None:
        raise RefreshFailed(f"the token endpoint answered {status} without a JSON object")
    tokens = {name: answer.get(name) for name in ("id_token", "access_token", "refresh_token")}
    for name, token in tokens.items():
        if token is not None and not (isinstance(token, str) and _VISIBLE.fullmatch(token)):
            raise RefreshFailed(f"the token endpoint's {name} is not a token")
    return TokenGrant(**tokens)


def _raise_refusal(status: int, answer: Mapping[str, Any]) -> None:
    """Tell what is final from what may pass, as the Codex client does.

    :raises RefreshRefused: one of the three final codes, any 401, or ``invalid_grant`` with 400.
    :raises RefreshFailed: anything else.
    """
    code = _error_code(answer)
    if code in REFUSALS or status == 401 or (status == 400 and code == "invalid_grant"):
        raise RefreshRefused(code or "unauthorized")
    raise RefreshFailed(f"the token endpoint answered {status}" + (f" ({code})" if code else ""))


def _error_code(answer: Mapping[str, Any]) -> str | None:
    error = answer.get("error")
    candidates = (error.get("code") if isinstance(error, dict) else None, error, answer.get("code"))
    code = next((candidate.lower() for candidate in candidates if isinstance(candidate, str)), None)
    return code if code is not None and _CODE.fullmatch(code) else None


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
