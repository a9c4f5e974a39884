"""The head of a response: read from its octets, strictly enough that nobody else reads another one. Pure; no I/O.

Source: RFC 9112 sections 2.2, 4, 5 and 6.3.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass

from ocm_wsgi.protocol.http.fields import Fields, value_of

#: All of a head, in octets, and its fields. The standard library allows as many for one line, and as many fields.
HEAD_LIMIT_BYTES = 64 * 1024
FIELD_LIMIT = 100

_BEGINNING = b"HTTP/1."
_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LINE_FOLD = re.compile(r"[ \t]*\n[ \t]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_BODILESS_STATUSES = frozenset({204, 304})


class HeadError(http.client.HTTPException):
    """The octets are no head of a response."""


@dataclass(frozen=True)
class ResponseHead:
    """The head of a response.

    :ivar is_http_1_1: and not HTTP/1.0.
    :ivar fields: in the order they came, repeated ones apart, folded lines unfolded.
    """

    is_http_1_1: bool
    status: int
    reason: str
    fields: Fields

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may be used again, as far as the other side is concerned (RFC 9112 section 9.3)."""
        options = _members(self.fields, "connection")
        may_close = "close" in options or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS
        return not may_close and (self.is_http_1_1 or "keep-alive" in options)

    def is_bodiless(self, method: str) -> bool:
        """Whether the response has no body, whatever its fields say."""
        return method == "HEAD" or self.status < 200 or self.status in _BODILESS_STATUSES

    def framing(self, method: str) -> tuple[bool, int | None]:
        """Whether the body is chunked, and else its length in octets: ``None`` where the connection's end ends it.

        :raises HeadError: that cannot be told.
        """
        if self.is_bodiless(method):
            return False, 0
        codings = _members(self.fields, "transfer-encoding")
        if codings:
            if codings != ["chunked"]:
                raise HeadError("a transfer coding that is not known here")
            return True, None
        lengths = set(_members(self.fields, "content-length"))
        if not lengths:
            return False, None
        length = lengths.pop()
        if lengths or not _LENGTH.fullmatch(length):
            raise HeadError("the length of the body is not clear")
        return False, int(length)


class HeadReader:
    """Reads heads of responses, one after another, fed in any split.

    :ivar rest: what was fed and is not part of a head that was returned.
    :ivar has_begun: anything was fed.
    """

    def __init__(self) -> None:
        self.rest = b""
        self.has_begun = False
        self._searched = 0

    def feed(self, data: bytes) -> None:
        self.rest += data
        self.has_begun = True

    def next_head(self) -> ResponseHead | None:
        """Return the next head if it is here.

        :raises HeadError: what is here is the beginning of none.
        """
        end = _END.search(self.rest, max(0, self._searched - 3))
        head_bytes = len(self.rest) if end is None else end.start()
        if not self.rest.startswith(_BEGINNING[: len(self.rest)]):
            raise HeadError("no response of HTTP/1")
        if head_bytes > HEAD_LIMIT_BYTES:
            raise HeadError("the head is too long")
        if end is None:
            self._searched = head_bytes
            return None
        head = self.rest[:head_bytes].decode("latin-1")
        self.rest, self._searched = self.rest[end.end() :], 0
        return _parsed(head)


def _parsed(text: str) -> ResponseHead:
    text = text.replace("\r\n", "\n")
    if "\n " in text or "\n\t" in text:
        text = _LINE_FOLD.sub(" ", text)
    status_line, *lines = text.split("\n")
    line = _STATUS_LINE.fullmatch(status_line)
    if line is None:
        raise HeadError("no status line")
    if len(lines) > FIELD_LIMIT:
        raise HeadError("too many fields")
    fields = []
    for field_line in lines:
        name, colon, value = field_line.partition(":")
        if not colon:
            raise HeadError("a field line without a colon")
        # Space before the colon, which hides a field from who compares names, is for a proxy to remove.
        fields.append((name.rstrip(" \t"), value.strip(" \t")))
    return ResponseHead(line[1] == "1", int(line[2]), (line[3] or "").strip(" \t"), fields)


def _members(fields: Fields, field_name: str) -> list[str]:
    """The members of a field that is a list, in lower case."""
    value = value_of(fields, field_name)
    return [] if value is None else [member for option in value.split(",") if (member := option.strip().lower())]
