"""Sending one request to OpenAI's OAuth issuer and reading its answer. What either means is for the callers.

No session: no cookies, no ``.netrc``, no proxies of the environment, no redirects.
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
from urllib3.exceptions import HTTPError

from ocm_wsgi import __version__

CONNECT_TIMEOUT_SECONDS = 10.0
# Silence allowed between two reads, and the time within which the whole answer must have come.
READ_TIMEOUT_SECONDS = 20.0
ANSWER_TIMEOUT_SECONDS = 30.0
# Three tokens take about 6 KiB.
MAX_ANSWER_BYTES = 256 * 1024

# A code is letters and underscores; what holds digits might be a token sent back to us.
_CODE = re.compile(r"[a-z_]{1,64}")


class NoResponse(Exception):
    """The issuer could not be reached, or what came is too much or too late. Says why, and holds no secret."""


@dataclass(frozen=True)
class ConnectionSettings:
    """How the issuer is reached.

    :ivar ssl_context: whom to trust.
    :ivar proxy_url: ``http://``, ``https://``, ``socks5h://`` and the like; ``None`` connects directly.
    """

    ssl_context: ssl.SSLContext
    proxy_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class IssuerResponse:
    """What the issuer said. ``repr`` shows nothing of the body.

    :ivar members: of the JSON object in the body; ``None`` when there is none.
    """

    status: int
    members: Mapping[str, Any] | None = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is of the class 2xx."""
        return 200 <= self.status < 300

    @property
    def error_code(self) -> str | None:
        """The code of a refusal, in lower case; ``None`` when it gave none that is safe to show."""
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
    timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
) -> IssuerResponse:
    """Send one request with a body of JSON or of a form, once.

    :param timeout_seconds: for the whole answer, from the start.
    :raises NoResponse: none came, or none that could be taken.
    """
    headers = {"User-Agent": f"ocm-wsgi/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    request = requests.Request("POST", url, headers=headers, json=json, data=form)
    try:
        return _sent(request.prepare(), connection, timeout_seconds)
    except (requests.RequestException, HTTPError, OSError) as exc:
        # The exception's own text may hold a proxy's password.
        raise NoResponse(type(exc).__name__) from None


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


def _sent(request: requests.PreparedRequest, connection: ConnectionSettings, timeout_seconds: float) -> IssuerResponse:
    proxies = {"http": connection.proxy_url, "https": connection.proxy_url} if connection.proxy_url else {}
    timeout = (min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), min(READ_TIMEOUT_SECONDS, timeout_seconds))
    deadline = time.monotonic() + timeout_seconds
    with (
        closing(_ContextAdapter(connection.ssl_context)) as adapter,
        adapter.send(request, stream=True, timeout=timeout, proxies=proxies) as response,
    ):
        octets = b""
        while piece := response.raw.read1(65536, decode_content=True):
            octets += piece
            if len(octets) > MAX_ANSWER_BYTES:
                raise NoResponse("it is too large")
            if time.monotonic() > deadline:
                raise NoResponse("it took too long")
        return IssuerResponse(response.status_code, _json_object(octets))


def _json_object(octets: bytes) -> Mapping[str, Any] | None:
    try:
        answer = json.loads(octets)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
