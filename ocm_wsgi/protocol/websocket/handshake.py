"""The opening handshake of a WebSocket through the proxy. Pure; no I/O.

The handshake is relayed: client and upstream agree on key, version, subprotocol and extensions, and the response is
upstream's. The proxy checks only what it relies on itself.

Source: RFC 6455 section 4, RFC 9110 section 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ocm_wsgi.errors import BadRequest, UpgradeUnavailable, UpstreamError
from ocm_wsgi.protocol.http.fields import (
    Fields,
    forwardable_response_fields,
    list_members,
    upstream_request_fields,
    value_of,
)
from ocm_wsgi.protocol.websocket import deflate
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters
from ocm_wsgi.protocol.websocket.message_gate import MESSAGE_LIMIT_BYTES

#: The endpoint that accepts WebSockets, below ``/v1/``.
ENDPOINT = "responses"

_SWITCHING_PROTOCOLS = 101
_LIMIT_FIELD = "x-codex-websocket-max-message-bytes"
_SIZE = re.compile(r"[0-9]{1,18}")
_VERSION = "13"
# Browsers, which cannot set fields, name a key and its account in a subprotocol: the account is the owner's to choose,
# and a key is for this service at most.
_ACCOUNT_SUBPROTOCOL_PREFIXES = ("openai-insecure-api-key.", "openai-organization.", "openai-project.")
_SUBPROTOCOLS = "sec-websocket-protocol"
# 16 octets in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")


def require_opening_handshake(method: str, http_version: str, endpoint: str, fields: Fields) -> None:
    """Check a client's opening handshake.

    :param http_version: ``HTTP/1.1``, as in the request line.
    :param endpoint: the decoded path below ``/v1/``.
    :raises UpgradeUnavailable: the endpoint or the version of the protocol is another one.
    :raises BadRequest: it is not a valid opening handshake.
    """
    if endpoint != ENDPOINT:
        raise UpgradeUnavailable("WebSocket is available at /v1/responses only; use HTTP.")
    if method != "GET" or http_version != "HTTP/1.1":
        raise BadRequest("A WebSocket upgrade requires GET over HTTP/1.1.")
    if "websocket" not in list_members(fields, "upgrade") or "upgrade" not in list_members(fields, "connection"):
        raise BadRequest("A WebSocket upgrade requires Upgrade: websocket and Connection: Upgrade.")
    if list_members(fields, "transfer-encoding") or (value_of(fields, "content-length") or "0").strip() != "0":
        raise BadRequest("A WebSocket upgrade must not have a body.")
    if not _KEY.fullmatch((value_of(fields, "sec-websocket-key") or "").strip()):
        raise BadRequest("Sec-WebSocket-Key must be 16 octets in base64.")
    if (value_of(fields, "sec-websocket-version") or "").strip() != _VERSION:
        error = UpgradeUnavailable("Only version 13 of the WebSocket protocol is supported.")
        error.response_fields = {"Sec-WebSocket-Version": _VERSION}
        raise error


def upgrade_request_fields(
    client_fields: Iterable[tuple[str, str]],
    *,
    host: str,
    account: Sequence[tuple[str, str]],
    overrides: Mapping[str, Sequence[str]],
) -> Fields:
    """Return all fields of the opening handshake for upstream, in order. For the parameters see ``fields``.

    Of the protocols that the client offers, only ``websocket`` is requested: no other could be relayed.
    """
    fields = upstream_request_fields(
        _without_account_subprotocols(client_fields),
        host=host,
        account=account,
        content_length=None,
        overrides=overrides,
    )
    return [*fields, ("connection", "Upgrade"), ("upgrade", "websocket")]


def _without_account_subprotocols(fields: Iterable[tuple[str, str]]) -> Fields:
    """Return the fields without the subprotocols that name a key, an organization or a project."""
    remaining = []
    for name, value in fields:
        if name.lower().replace("_", "-") == _SUBPROTOCOLS:
            offered = [protocol.strip() for protocol in value.split(",")]
            kept = [each for each in offered if not each.lower().startswith(_ACCOUNT_SUBPROTOCOL_PREFIXES)]
            if kept != offered:
                if kept:
                    remaining.append((name, ", ".join(kept)))
                continue
        remaining.append((name, value))
    return remaining


@dataclass(frozen=True)
class HandshakeResponse:
    """Upstream's response to the opening handshake.

    :ivar fields: all fields, in order, as received.
    """

    status: int
    reason: str
    fields: Fields

    @property
    def is_accepted(self) -> bool:
        """Whether upstream switches protocols."""
        return self.status == _SWITCHING_PROTOCOLS

    def require_websocket(self) -> None:
        """Check that an accepted handshake switches to WebSocket.

        :raises UpstreamError: it switches to another protocol.
        """
        if "websocket" not in list_members(self.fields, "upgrade"):
            raise UpstreamError("OpenAI's response is invalid.", detail="the response switches to another protocol")

    def deflate(self) -> DeflateParameters | None:
        """Return the negotiated compression, or ``None`` if messages are not compressed.

        :raises UpstreamError: an unsupported extension was negotiated. Frames that cannot be read cannot be accounted.
        """
        try:
            return deflate.negotiated(value_of(self.fields, "sec-websocket-extensions"))
        except deflate.UnsupportedExtensions as exc:
            raise UpstreamError("OpenAI negotiated an unsupported WebSocket extension.", detail=str(exc)) from exc

    def head(self) -> bytes:
        """Return the head of an accepted handshake's response, for the client.

        It announces the longest message that upstream and this service both accept. Codex then refuses a longer one by
        itself, with a sentence that says so.
        """
        fields = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            *(
                (name, value)
                for name, value in forwardable_response_fields(self.fields)
                if name.lower() != _LIMIT_FIELD
            ),
            (_LIMIT_FIELD, str(self._message_limit())),
        ]
        lines = (f"{name}: {value}" for name, value in fields)
        return "\r\n".join([f"HTTP/1.1 {self.status} {self.reason}", *lines, "", ""]).encode("latin-1")

    def _message_limit(self) -> int:
        values = [value.strip() for name, value in self.fields if name.lower() == _LIMIT_FIELD]
        return min([MESSAGE_LIMIT_BYTES, *(int(value) for value in values if _SIZE.fullmatch(value))])
