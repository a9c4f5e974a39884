"""The opening handshake of a WebSocket through the proxy. Pure; no I/O.

It passes: key, version, subprotocol and extensions are the client's and upstream's own business, and the answer is
upstream's. What is checked is what the proxy itself relies on.

Source: RFC 6455 section 4, RFC 9110 section 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ocm_wsgi.errors import BadRequest, UpgradeUnavailable, UpstreamError
from ocm_wsgi.protocol.http.fields import Fields, forwardable_response_fields, upstream_request_fields, value_of
from ocm_wsgi.protocol.websocket import deflate
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters

#: Where a WebSocket is to be had, behind ``/v1/``.
ENDPOINT = "responses"

_SWITCHING_PROTOCOLS = 101
_VERSION = "13"
#: 16 octets in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")


def require_opening_handshake(method: str, http_version: str, endpoint: str, fields: Fields) -> None:
    """Check a client's request to become a WebSocket.

    :param http_version: ``HTTP/1.1``, as in the request line.
    :param endpoint: the decoded path behind ``/v1/``.
    :raises UpgradeUnavailable: it is for another endpoint, or another version of the protocol.
    :raises BadRequest: it is no valid opening handshake.
    """
    if endpoint != ENDPOINT:
        raise UpgradeUnavailable("WebSocket is available at /v1/responses only; use HTTP.")
    if method != "GET" or http_version != "HTTP/1.1":
        raise BadRequest("A WebSocket is asked for with GET and HTTP/1.1.")
    if "websocket" not in _options(fields, "upgrade") or "upgrade" not in _options(fields, "connection"):
        raise BadRequest("A WebSocket is asked for with Upgrade: websocket and Connection: Upgrade.")
    if _options(fields, "transfer-encoding") or (value_of(fields, "content-length") or "0").strip() != "0":
        raise BadRequest("The request for a WebSocket must not have a body.")
    if not _KEY.fullmatch((value_of(fields, "sec-websocket-key") or "").strip()):
        raise BadRequest("Sec-WebSocket-Key must be 16 octets in base64.")
    if (value_of(fields, "sec-websocket-version") or "").strip() != _VERSION:
        error = UpgradeUnavailable("Only version 13 of the WebSocket protocol is available here.")
        error.response_fields = {"Sec-WebSocket-Version": _VERSION}
        raise error


def upgrade_request_fields(
    client_fields: Iterable[tuple[str, str]],
    *,
    host: str,
    account: Sequence[tuple[str, str]],
    overrides: Mapping[str, Sequence[str]],
) -> Fields:
    """Everything that goes upstream with the opening handshake, in order. Parameters are as in ``fields``.

    Of what the client would upgrade to only ``websocket`` is asked for: nothing else could be relayed.
    """
    fields = upstream_request_fields(
        client_fields, host=host, account=account, content_length=None, overrides=overrides
    )
    return [*fields, ("connection", "Upgrade"), ("upgrade", "websocket")]


@dataclass(frozen=True)
class HandshakeResponse:
    """Upstream's answer to the opening handshake.

    :ivar fields: all of them, in order, as they came.
    :ivar rest: octets that came behind its head.
    """

    status: int
    reason: str
    fields: Fields
    rest: bytes

    @property
    def is_accepted(self) -> bool:
        return self.status == _SWITCHING_PROTOCOLS

    def require_websocket(self) -> None:
        """Check what an accepting answer switches to.

        :raises UpstreamError: another protocol.
        """
        if "websocket" not in _options(self.fields, "upgrade"):
            raise UpstreamError("OpenAI's answer could not be understood.", detail="it switches to another protocol")

    def deflate(self) -> DeflateParameters | None:
        """What was negotiated, or ``None`` where messages are not compressed.

        :raises UpstreamError: something that the frames cannot be read with. Who cannot read them cannot count.
        """
        try:
            return deflate.negotiated(value_of(self.fields, "sec-websocket-extensions"))
        except deflate.UnsupportedExtensions as exc:
            raise UpstreamError("OpenAI negotiated a WebSocket that is not known here.", detail=str(exc)) from exc

    def head(self) -> bytes:
        """The octets of an accepting answer for the client."""
        fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), *forwardable_response_fields(self.fields)]
        lines = (f"{name}: {value}" for name, value in fields)
        return "\r\n".join([f"HTTP/1.1 {self.status} {self.reason}", *lines, "", ""]).encode("latin-1")


def _options(fields: Iterable[tuple[str, str]], field_name: str) -> list[str]:
    """The members of a field that is a list, in lower case."""
    value = value_of(fields, field_name)
    return [member for option in (value or "").split(",") if (member := option.strip().lower())]
