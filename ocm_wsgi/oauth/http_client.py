"""HTTP client for OpenAI's OAuth issuer: sends one request and reads the response, without interpreting either.

Uses no session: no cookies, no ``.netrc``, no environment proxies, no redirects.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from ocm_wsgi import __version__
from ocm_wsgi.tcp.happy_eyeballs import HappyEyeballsMixin

CONNECT_TIMEOUT_SECONDS = 10.0
#: Between two reads, and for the whole response.
READ_TIMEOUT_SECONDS = 20.0
RESPONSE_TIMEOUT_SECONDS = 30.0
#: Three tokens take about 6 KiB.
MAX_RESPONSE_BYTES = 256 * 1024

# A code consists of letters and underscores; anything with digits might be a token sent back to us.
_CODE = re.compile(r"[a-z_]{1,64}")


class NoResponse(Exception):
    """The issuer could not be reached, or its response was too large or too late. The message contains no secret."""


@dataclass(frozen=True)
class ConnectionSettings:
    """How to connect to the issuer.

    :ivar ssl_context: verifies the issuer.
    :ivar proxy_url: ``http://``, ``https://``, ``socks5h://`` and the like; ``None`` connects directly.
    """

    ssl_context: ssl.SSLContext
    proxy_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class IssuerResponse:
    """A response of the issuer. ``repr`` shows none of its body.

    :ivar members: of the JSON object in the body; ``None`` if the body is not one.
    """

    status: int
    members: Mapping[str, Any] | None = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def error_code(self) -> str | None:
        """The error code, in lower case; ``None`` if there is none that is safe to show."""
        members = self.members or {}
        error = members.get("error")
        candidates = (error.get("code") if isinstance(error, dict) else None, error, members.get("code"))
        code = next((candidate.lower() for candidate in candidates if isinstance(candidate, str)), None)
        return code if code is not None and _CODE.fullmatch(code) else None

    def __str__(self) -> str:
        return f"{self.status}" + (f" ({self.error_code})" if self.error_code else "")


def post(
    url: str,
    connection: ConnectionSettings,
    *,
    json: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
) -> IssuerResponse:
    """Send a POST request with a JSON or form body, once.

    :param timeout_seconds: for the whole exchange.
    :raises NoResponse: there was no response, or it was too large or too late.
    """
    headers = {"User-Agent": f"ocm-wsgi/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    request = requests.Request("POST", url, headers=headers, json=json, data=form)
    try:
        return _send(request.prepare(), connection, timeout_seconds)
    except (requests.RequestException, HTTPError, OSError) as exc:
        # The exception's message may contain a proxy's password.
        raise NoResponse(type(exc).__name__) from None


class _HTTPConnection(HappyEyeballsMixin, HTTPConnection):
    pass


class _HTTPSConnection(HappyEyeballsMixin, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _ContextAdapter(HTTPAdapter):
    """Sends requests over TLS with the given context only."""

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._ssl_context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._ssl_context, **kwargs)
        if not proxy.startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the inherited method would add certifi's roots to the context, which already verifies."""


def _send(request: requests.PreparedRequest, connection: ConnectionSettings, timeout_seconds: float) -> IssuerResponse:
    proxies = {"http": connection.proxy_url, "https": connection.proxy_url} if connection.proxy_url else {}
    timeout = (min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), min(READ_TIMEOUT_SECONDS, timeout_seconds))
    deadline = time.monotonic() + timeout_seconds
    with (
        closing(_ContextAdapter(connection.ssl_context)) as adapter,
        adapter.send(request, stream=True, timeout=timeout, proxies=proxies) as response,
    ):
        body = b""
        while piece := response.raw.read1(65536, decode_content=True):
            body += piece
            if len(body) > MAX_RESPONSE_BYTES:
                raise NoResponse("the response is too large")
            if time.monotonic() > deadline:
                raise NoResponse("the response took too long")
        return IssuerResponse(response.status_code, _json_object(body))


def _json_object(body: bytes) -> Mapping[str, Any] | None:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None
