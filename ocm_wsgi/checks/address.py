"""The public address, end to end: TLS, and whether proxies in front of the service pass on what Codex needs.

Asks the service, through its address, what it received. OpenAI is asked for a WebSocket only, and for no turn.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ocm_wsgi.checks import websocket
from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.checks.tickets import ticket
from ocm_wsgi.config import Certificate
from ocm_wsgi.tls import contexts

_SUBJECT = Subject("address")
_TIMEOUT_SECONDS = 30.0
_BODY_BYTES = 20 * 1024 * 1024
_EXPIRY_WARNING_DAYS = 14
# Two events sent a second apart that arrive closer together than this were buffered on the way.
_MIN_INTERVAL_SECONDS = 0.5
_NGINX = "Use deploy/nginx.conf unchanged"
_FALLBACK = "Codex falls back to HTTP after a few seconds"
_FORGED = "192.0.2.1"


@dataclass(frozen=True)
class Address:
    """The address that clients connect to.

    :ivar context: the certificates to trust; ``None`` for plain HTTP.
    """

    host: str
    port: int
    context: ssl.SSLContext | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse a URL, ignoring its path.

        :raises ValueError: with a message about the expected form.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as https://ocm.example.org")
        is_tls = parts.scheme == "https"
        context = contexts.upstream_context(Certificate()) if is_tls else None
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), context)

    def connect(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> HTTPConnection:
        """Return an open connection.

        :raises OSError: the connection failed.
        """
        connection: HTTPConnection = (
            HTTPSConnection(self.host, self.port, context=self.context, timeout=timeout_seconds)
            if self.context
            else HTTPConnection(self.host, self.port, timeout=timeout_seconds)
        )
        connection.connect()
        return connection


class _Refused(Exception):
    """The service, or a proxy in front of it, sent an unexpected status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the status is {status}")
        self.status = status


def findings(address: Address, state_path: Path, *, silence_seconds: float) -> Iterator[Finding]:
    """Check the address.

    :param silence_seconds: the silence to test a stream with; 0 skips this.
    """
    try:
        yield from _connection(address)
    except (OSError, HTTPException) as exc:
        yield _unreachable(address, exc)
        return
    authentication = list(_authentication(address))
    yield from authentication
    try:
        with ticket(state_path) as text:
            yield from _inside(address, {"Authorization": f"Bearer {text}"}, silence_seconds)
    except OSError as exc:
        yield _no_ticket(f"{state_path} cannot be written ({exc.strerror})")


def _connection(address: Address) -> Iterator[Finding]:
    with closing(address.connect()) as connection:
        if not isinstance(connection.sock, ssl.SSLSocket):
            yield _plaintext(address)
            return
        version = connection.sock.version()
        expires_at = ssl.cert_time_to_seconds(str((connection.sock.getpeercert() or {})["notAfter"]))
    days = int((expires_at - time.time()) // 86400)
    if days < _EXPIRY_WARNING_DAYS:
        remedy = "Run certbot renew. Set up a timer for it that reloads nginx afterwards."
        yield _SUBJECT.warning("certificate", f"The certificate expires in {days} days.", remedy)
    else:
        yield _SUBJECT.ok("certificate", f"The certificate is trusted and valid for {days} days ({version}).")


def _plaintext(address: Address) -> Finding:
    try:
        is_loopback = address.host == "localhost" or ip_address(address.host).is_loopback
    except ValueError:
        is_loopback = False
    if is_loopback:
        return _SUBJECT.note("clear", "There is no TLS, but the address is on this machine only.")
    return _SUBJECT.problem(
        "clear", "Bearer tokens are sent unencrypted.", "Serve it over https://, with nginx in front."
    )


def _unreachable(address: Address, exc: Exception) -> Finding:
    place = f"{address.host}:{address.port}"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _SUBJECT.problem(
            "certificate",
            f"Clients do not trust the certificate of {place}: {exc.verify_message}.",
            "ssl_certificate in nginx must name the full chain (fullchain.pem), issued for this host name.",
        )
    if isinstance(exc, ssl.SSLError):
        return _SUBJECT.problem(
            "tls", f"{place} does not support TLS 1.2 or 1.3 ({exc.reason}).", "Check listen in nginx."
        )
    if isinstance(exc, socket.gaierror):
        return _SUBJECT.problem(
            "name", f"{address.host} does not resolve to an address.", "Create a DNS record for it."
        )
    reason = getattr(exc, "strerror", None) or type(exc).__name__
    return _SUBJECT.problem("unreachable", f"{place} cannot be reached: {reason}.", "Check nginx and the firewall.")


def _authentication(address: Address) -> Iterator[Finding]:
    try:
        with closing(address.connect()) as connection:
            connection.request("GET", "/v1/models")
            response = connection.getresponse()
            status, challenge = response.status, response.headers.get("WWW-Authenticate", "")
    except (OSError, HTTPException) as exc:
        yield _unreachable(address, exc)
        return
    if status == 401 and challenge.startswith("Bearer"):
        yield _SUBJECT.ok("authentication", "Requests without a bearer token get 401.")
    elif status in (502, 503, 504):
        yield _SUBJECT.problem(
            "stopped",
            f"The proxy in front of the service responds with {status}.",
            "Start the service: systemctl start ocm",
        )
    elif status in (401, 404):
        yield _SUBJECT.problem(
            "elsewhere", f"Another server responds there ({status}).", "Check proxy_pass and server_name in nginx."
        )
    else:
        yield _SUBJECT.problem(
            "open", f"Requests without a bearer token are served (the status is {status}).", "ocm add-user NAME"
        )


def _inside(address: Address, authorization: Mapping[str, str], silence_seconds: float) -> Iterator[Finding]:
    """Check what reaches the service. Stops as soon as the service rejects the ticket."""
    checks: list[Callable[[Address, Mapping[str, str]], Iterator[Finding]]] = [_fields, _body, _streaming, _upgrade]
    try:
        for check in checks:
            yield from check(address, authorization)
    except _Refused as exc:
        yield _no_ticket(f"the service does not accept this check's ticket ({exc.status})")
        return
    except (OSError, HTTPException) as exc:
        yield _unreachable(address, exc)
        return
    if silence_seconds:
        yield _silence(address, authorization, silence_seconds)


def _no_ticket(reason: str) -> Finding:
    return _SUBJECT.warning(
        "not_checked",
        f"Header fields, bodies, streams, silence and WebSockets were not checked: {reason}.",
        "Run this on the server itself, as the service's user and with its environment.",
    )


def _fields(address: Address, authorization: Mapping[str, str]) -> Iterator[Finding]:
    sent = {"session_id": "s", "conversation_id": "c", "thread_id": "t", "X-Forwarded-For": _FORGED}
    arrived = _received(address, "GET", "/ocm/v1/check/fields", {**authorization, **sent})
    missing = {"session_id", "conversation_id", "thread_id"} - set(arrived["names"])
    if missing:
        yield _SUBJECT.problem(
            "underscores",
            f"Fields with underscores do not arrive ({', '.join(sorted(missing))}); older Codex versions need them.",
            f"{_NGINX}: underscores_in_headers on.",
        )
    else:
        yield _SUBJECT.ok("underscores", "Fields with underscores arrive.")
    if arrived["protocol"] == "HTTP/1.0":
        yield _SUBJECT.problem(
            "http_1_0",
            "The proxy in front of the service uses HTTP/1.0: to clients, truncated streams look complete.",
            f"{_NGINX}: proxy_http_version 1.1.",
        )
    if _FORGED in arrived["values"].get("x-forwarded-for", "") and address.context is not None:
        yield _SUBJECT.warning(
            "forged", "Clients can forge their address: X-Forwarded-For is passed on unchanged.", f"{_NGINX}."
        )


def _upgrade(address: Address, authorization: Mapping[str, str]) -> Iterator[Finding]:
    sent = {"Connection": "Upgrade", "Upgrade": "websocket"}
    arrived = _received(address, "GET", "/ocm/v1/check/fields", {**authorization, **sent})
    if arrived["values"].get("upgrade", "").lower() == "websocket":
        yield _websocket(address, authorization)
    else:
        yield _SUBJECT.warning(
            "websocket",
            f"The Upgrade header does not reach the service; {_FALLBACK}.",
            f"{_NGINX}: proxy_set_header Upgrade and Connection.",
        )


def _websocket(address: Address, authorization: Mapping[str, str]) -> Finding:
    """Check a WebSocket to OpenAI."""
    try:
        with closing(address.connect(websocket.TIMEOUT_SECONDS)) as connection:
            websocket.probe(connection, authorization)
    except websocket.Declined as exc:
        return _SUBJECT.warning(
            "websocket", f"The WebSocket handshake is rejected ({exc}); {_FALLBACK}.", _declined_remedy(exc.status)
        )
    except websocket.Broken as exc:
        return _SUBJECT.problem(
            "websocket",
            f"A WebSocket opens but does not work: {exc}. Codex would wait until its timeout.",
            f"{_NGINX}; any other proxy in front of the service must support WebSockets too.",
        )
    except TimeoutError:
        return _SUBJECT.warning(
            "websocket",
            f"The WebSocket handshake takes longer than {websocket.TIMEOUT_SECONDS:.0f} s; {_FALLBACK}.",
            "The service's log says what it is waiting for: journalctl -u ocm",
        )
    return _SUBJECT.ok("websocket", "A WebSocket to OpenAI opens, and frames pass in both directions.")


def _declined_remedy(status: int) -> str:
    if status == 426:
        return "WebSockets need the service's own worker class: let gunicorn.conf.py set worker_class."
    if status in (401, 403):
        return "ocm login"
    if status >= 500:
        return "The service's log says why: journalctl -u ocm"
    return "If this persists, `supports_websockets = false` in Codex's configuration avoids the delay."


def _body(address: Address, authorization: Mapping[str, str]) -> Iterator[Finding]:
    remedy = f"{_NGINX}: client_max_body_size."
    try:
        arrived = _received(address, "POST", "/ocm/v1/check/body", authorization, bytes(_BODY_BYTES))
    except (_Refused, OSError, HTTPException) as exc:
        reason = str(exc) if isinstance(exc, _Refused) else "the connection was closed"
        yield _SUBJECT.problem(
            "body", f"A body of 20 MiB does not get through: {reason}. Images need this size.", remedy
        )
        return
    if arrived["size"] == _BODY_BYTES:
        yield _SUBJECT.ok("body", "A body of 20 MiB arrives completely.")
    else:
        yield _SUBJECT.problem("body", f"Only {arrived['size']} bytes of a body of 20 MiB arrive.", remedy)


def _streaming(address: Address, authorization: Mapping[str, str]) -> Iterator[Finding]:
    first, second, _ = _arrivals(address, authorization, 0)
    if second - first < _MIN_INTERVAL_SECONDS:
        yield _SUBJECT.problem(
            "buffered", "Streams are buffered: events arrive together.", f"{_NGINX}: proxy_buffering off."
        )
    else:
        yield _SUBJECT.ok("unbuffered", "Streams are not buffered: events arrive as they are sent.")


def _silence(address: Address, authorization: Mapping[str, str], seconds: float) -> Finding:
    try:
        _arrivals(address, authorization, seconds)
    except (_Refused, OSError, HTTPException):
        return _SUBJECT.problem(
            "silence",
            f"A stream is closed after {seconds:.0f} s of silence; models can think for longer.",
            f"{_NGINX}: proxy_read_timeout.",
        )
    return _SUBJECT.ok("silence", f"A stream survives {seconds:.0f} s of silence.")


def _arrivals(address: Address, authorization: Mapping[str, str], silence_seconds: float) -> list[float]:
    """Return the arrival times of the three events.

    :raises HTTPException: not all of them arrived.
    """
    with closing(address.connect(_TIMEOUT_SECONDS + silence_seconds)) as connection:
        connection.request("GET", f"/ocm/v1/check/stream?silence={silence_seconds}", headers=dict(authorization))
        response = _accepted(connection)
        times: list[float] = []
        while piece := response.read1(65536):
            times += [time.monotonic()] * piece.count(b"data:")
    if len(times) != 3:
        raise HTTPException("the stream ended early")
    return times


def _received(
    address: Address, method: str, target: str, fields: Mapping[str, str], body: bytes | None = None
) -> dict[str, Any]:
    with closing(address.connect()) as connection:
        connection.request(method, target, body=body, headers=dict(fields))
        response = json.loads(_accepted(connection).read())
    return dict(response)


def _accepted(connection: HTTPConnection) -> HTTPResponse:
    response = connection.getresponse()
    if response.status != 200:
        raise _Refused(response.status)
    return response
