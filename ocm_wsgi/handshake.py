"""The opening handshake of a WebSocket through the proxy. Pure; no I/O.

It passes: key, version, subprotocol and extensions are the client's and upstream's own business, and the answer is
upstream's. What is checked is what the proxy itself relies on.

Source: RFC 6455 section 4, RFC 9110 section 7.8, RFC 9112 section 6.3.
"""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ocm_wsgi import deflate
from ocm_wsgi.deflate import DeflateParameters
from ocm_wsgi.errors import BadRequest, UpgradeUnavailable, UpstreamError
from ocm_wsgi.fields import Fields, forwardable_response_fields, upstream_request_fields, value_of

#: Where a WebSocket is to be had, behind ``/v1/``.
ENDPOINT = "responses"

#: The body of a refusal: so many octets, in chunks, or until the connection closes.
Framing = int | Literal["chunked", "close"]

_SWITCHING_PROTOCOLS = 101
_VERSION = "13"
#: 16 octets in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_LINE_BREAKERS = re.compile(r"[\r\n\0]")
_HEAD_LIMIT_BYTES = 64 * 1024
_INTERIM_LIMIT = 32
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_LENGTH = re.compile(r"\d{1,18}")


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


def request_head(target: str, fields: Fields) -> bytes:
    """The octets of the opening handshake.

    :raises BadRequest: a character in it would end a line.
    """
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return _head(lines)


@dataclass(frozen=True)
class Answer:
    """Upstream's answer to the opening handshake.

    :ivar fields: all of them, in order, as they came.
    :ivar rest: octets that came behind its head: frames, or the start of a body.
    """

    status: int
    reason: str
    fields: Fields
    rest: bytes

    @property
    def is_accepting(self) -> bool:
        return self.status == _SWITCHING_PROTOCOLS

    @property
    def framing(self) -> Framing:
        """How long the body of a refusal is (RFC 9112 section 6.3).

        :raises UpstreamError: that cannot be told.
        """
        if self.status in (204, 304) or self.is_accepting:
            return 0
        if codings := _options(self.fields, "transfer-encoding"):
            return "chunked" if codings[-1] == "chunked" else "close"
        lengths = set(_options(self.fields, "content-length"))
        if not lengths:
            return "close"
        length = lengths.pop()
        if lengths or not _LENGTH.fullmatch(length):
            raise _unreadable("the length of its body is not clear")
        return int(length)

    def deflate(self) -> DeflateParameters | None:
        """What was negotiated, or ``None`` where messages are not compressed.

        :raises UpstreamError: something that the frames cannot be read with. Who cannot read them cannot count.
        """
        try:
            return deflate.negotiated(value_of(self.fields, "sec-websocket-extensions"))
        except deflate.NotUnderstood as exc:
            raise UpstreamError("OpenAI negotiated a WebSocket that is not known here.", detail=str(exc)) from exc

    def forwardable_fields(self) -> Fields:
        """The fields that go to the client. For a refusal its body's framing is the sender's to add."""
        fields = forwardable_response_fields(self.fields)
        if not self.is_accepting:
            return fields
        return [("Upgrade", "websocket"), ("Connection", "Upgrade"), *fields]

    def head(self) -> bytes:
        """The octets of an accepting answer for the client."""
        lines = (f"{name}: {value}" for name, value in self.forwardable_fields())
        return _head([f"HTTP/1.1 {self.status} {self.reason}", *lines])


class AnswerParser:
    """Reads upstream's answer, fed in any split. Interim answers (RFC 9110 section 15.2) are dropped."""

    def __init__(self) -> None:
        self._octets = b""
        self._interim = 0

    def feed(self, data: bytes) -> Answer | None:
        """Return the answer when its head is whole.

        :raises UpstreamError: it is no answer to an opening handshake.
        """
        self._octets += data
        while end := _HEAD_END.search(self._octets, 0, _HEAD_LIMIT_BYTES):
            answer = _answer(self._octets[: end.end()], self._octets[end.end() :])
            if answer.is_accepting and "websocket" not in _options(answer.fields, "upgrade"):
                raise _unreadable("it switches to another protocol")
            if answer.status >= 200 or answer.is_accepting:
                return answer
            self._interim += 1
            if self._interim > _INTERIM_LIMIT:
                raise _unreadable("there is no end of interim answers")
            self._octets = answer.rest
        if len(self._octets) > _HEAD_LIMIT_BYTES:
            raise _unreadable("its head is too long")
        return None


def _answer(head: bytes, rest: bytes) -> Answer:
    line = _STATUS_LINE.match(head)
    if line is None:
        raise _unreadable("it does not begin with a status line")
    try:
        fields = http.client.parse_headers(io.BytesIO(head[line.end() :])).items()
    except http.client.HTTPException as exc:
        raise _unreadable(str(exc)) from exc
    return Answer(int(line[2]), (line[3] or b"").decode("latin-1"), fields, rest)


def _unreadable(detail: str) -> UpstreamError:
    return UpstreamError("OpenAI's answer could not be understood.", detail=detail)


def _options(fields: Iterable[tuple[str, str]], field_name: str) -> list[str]:
    """The members of a field that is a list, in lower case."""
    value = value_of(fields, field_name)
    return [member for option in (value or "").split(",") if (member := option.strip().lower())]


def _head(lines: Iterable[str]) -> bytes:
    whole = list(lines)
    if any(map(_LINE_BREAKERS.search, whole)):
        raise BadRequest("A field holds a character that no field can have.")
    return "\r\n".join([*whole, "", ""]).encode("latin-1")
