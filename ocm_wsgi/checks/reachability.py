"""OpenAI: whether it can be reached as the service would, and whether our clock agrees with its clock.

Sends one request each to upstream and to the issuer, without a credential: these are refused and cost nothing.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import requests
from urllib3.exceptions import HTTPError, NameResolutionError

from ocm_wsgi.checks import dead_addresses
from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.errors import ConfigurationError
from ocm_wsgi.protocol.http.fields import Fields, value_of
from ocm_wsgi.protocol.http.targets import Origin
from ocm_wsgi.tls import contexts
from ocm_wsgi.upstream.adapter import UpstreamAdapter, upstream_request
from ocm_wsgi.upstream.exchange import Exchange, RequestHead

_SUBJECT = Subject("reachability")
_CLOCK = Subject("clock")
_TIMEOUT_SECONDS = (10.0, 20.0)
# Access tokens are refreshed five minutes before they expire.
_CLOCK_WARNING_SECONDS = 30
_CLOCK_PROBLEM_SECONDS = 240


@dataclass(frozen=True)
class _Endpoint:
    name: str
    key: str
    base_url: str
    path: str


def findings(config: Config, account: AccountConfig, *, is_chatgpt: bool = True) -> Iterator[Finding]:
    """Check upstream and, for a ChatGPT credential, the issuer.

    :param account: how it is reached.
    :param is_chatgpt: whether the credential is for ChatGPT or for OpenAI's API.
    """
    upstream = (
        _Endpoint("ChatGPT", "chatgpt_base_url", config.chatgpt_base_url, "/models")
        if is_chatgpt
        else _Endpoint("OpenAI's API", "api_base_url", config.api_base_url, "/v1/models")
    )
    issuer = _Endpoint("OpenAI's sign-in", "auth_base_url", config.auth_base_url, "/oauth/token")
    try:
        context = contexts.upstream_context(config.certificate)
    except ConfigurationError as exc:
        yield _SUBJECT.problem("certificate", exc.message, "Fix `certificate` in the configuration.")
        return
    proxy_url = account.proxy_url.get_secret_value() if account.proxy_url else None
    with closing(UpstreamAdapter(context, proxy_url=proxy_url)) as adapter:
        yield from _response(adapter, upstream, has_proxy=proxy_url is not None)
        if is_chatgpt:
            yield from _response(adapter, issuer, has_proxy=proxy_url is not None)


def _response(adapter: UpstreamAdapter, endpoint: _Endpoint, *, has_proxy: bool) -> Iterator[Finding]:
    origin = Origin.parse(endpoint.base_url)
    fields = [("host", origin.authority), ("accept", "*/*"), ("connection", "close")]
    head = RequestHead(origin.base_path + endpoint.path, fields, Exchange())
    started = time.monotonic()
    try:
        response = adapter.send(upstream_request("GET", origin, head, None), stream=True, timeout=_TIMEOUT_SECONDS)
    except (requests.RequestException, HTTPError, OSError) as exc:
        yield _failure(exc, endpoint, origin, has_proxy=has_proxy)
        return
    seconds = time.monotonic() - started
    with response:
        received: Fields = response.raw.field_lines  # type: ignore[union-attr]  # the adapter put its own there
        route = "through the detour" if has_proxy else "directly"
        if value_of(received, "cf-mitigated"):
            yield _SUBJECT.problem(
                "challenged",
                f"{endpoint.name} treats this machine as a bot: Cloudflare requires a human.",
                "Use another address: set `detour`.",
            )
        elif response.status_code >= 500:
            yield _SUBJECT.warning(
                "failing",
                f"{endpoint.name} is reachable {route} but responds with {response.status_code}.",
                "Try again later.",
            )
        else:
            yield _SUBJECT.ok(
                "reached",
                f"{endpoint.name} is reachable {route}: {origin.authority} responds with {response.status_code} "
                f"in {seconds:.1f} s.",
            )
        yield from _clock(value_of(received, "date"), endpoint)
    if not has_proxy:
        yield from dead_addresses.findings(endpoint.name, origin)


def _failure(exc: Exception, endpoint: _Endpoint, origin: Origin, *, has_proxy: bool) -> Finding:
    causes = list(_causes(exc))
    text = f"{endpoint.name} ({origin.authority}) cannot be reached: "
    fix_network = "Check this machine's network and firewall, or set `detour`."
    if any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes) or (
        has_proxy and any("SOCKS" in type(cause).__name__ or "Proxy" in type(cause).__name__ for cause in causes)
    ):
        return _SUBJECT.problem("proxy", f"{text}the proxy refused or failed.", "Check `detour` and the proxy itself.")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _SUBJECT.problem(
                "certificate",
                f"{text}its certificate is not trusted ({cause.verify_message}).",
                "If a proxy intercepts TLS, add its authority to `certificate`; otherwise set this machine's clock.",
            )
        if isinstance(cause, ssl.SSLError):
            return _SUBJECT.problem("tls", f"{text}TLS fails ({cause.reason}).", fix_network)
        if isinstance(cause, NameResolutionError):
            return _SUBJECT.problem("name", f"{text}its name does not resolve.", "Check DNS (/etc/resolv.conf).")
    if isinstance(exc, requests.Timeout):
        return _SUBJECT.problem("timeout", f"{text}it did not respond in time.", fix_network)
    reason = next((cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), "")
    return _SUBJECT.problem("unreachable", f"{text}{reason or type(causes[-1]).__name__}.", fix_network)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        reason = getattr(cause, "reason", None)
        cause = cause.__cause__ or cause.__context__ or (reason if isinstance(reason, BaseException) else None)


def _clock(date: str | None, endpoint: _Endpoint, *, now: float | None = None) -> Iterator[Finding]:
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        return
    difference = (time.time() if now is None else now) - theirs
    direction = "ahead of" if difference > 0 else "behind"
    text = f"This machine's clock is {abs(difference):.0f} s {direction} {endpoint.name}'s"
    remedy = "Synchronize the clock: apt-get install systemd-timesyncd, or chrony."
    if abs(difference) >= _CLOCK_PROBLEM_SECONDS:
        yield _CLOCK.problem("off", f"{text}: access tokens are refreshed too late or too often.", remedy)
    elif abs(difference) >= _CLOCK_WARNING_SECONDS:
        yield _CLOCK.warning("off", f"{text}.", remedy)
    else:
        yield _CLOCK.ok(
            "agrees", f"This machine's clock agrees with {endpoint.name}'s within {max(1, abs(difference)):.0f} s."
        )
