"""Parses response heads, strictly enough that no other parser would read them differently. Pure; no I/O.

Source: RFC 9112 sections 2.2, 4, 5 and 6.3.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass

from ocm_wsgi.protocol.http.fields import Fields, list_members

#: The longest head, in octets, and the most fields. The standard library allows that for one line, and as many fields.
HEAD_LIMIT_BYTES = 64 * 1024
FIELD_LIMIT = 100

#: Responses with these statuses, and those below 200, have no body (RFC 9112 section 6.3).
BODILESS_STATUSES = frozenset({204, 304})

_BEGINNING = b"HTTP/1."
# How a head may end: a line feed, and an empty line behind it.
_ENDS = (b"\n\r\n", b"\n\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LINE_FOLD = re.compile(r"[ \t]*\n[ \t]+")
_LENGTH = re.compile(r"[0-9]{1,18}")


class HeadError(http.client.HTTPException):
    """The octets are not a valid response head."""


@dataclass(frozen=True)
class ResponseHead:
    """The head of a response.

    :ivar is_http_1_1: whether it is HTTP/1.1, not HTTP/1.0.
    :ivar fields: in the order received, repeated ones separate, folded lines unfolded.
    """

    is_http_1_1: bool
    status: int
    reason: str
    fields: Fields

    @property
    def keeps_alive(self) -> bool:
        """Whether the other side allows the connection to be reused (RFC 9112 section 9.3)."""
        options = list_members(self.fields, "connection")
        may_close = "close" in options or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS
        return not may_close and (self.is_http_1_1 or "keep-alive" in options)

    def is_bodiless(self, method: str) -> bool:
        """Return whether the response has no body, regardless of its fields."""
        return method == "HEAD" or self.status < 200 or self.status in BODILESS_STATUSES

    def framing(self, method: str) -> tuple[bool, int | None]:
        """Return whether the body is chunked, and its length in octets, ``None`` if it ends with the connection.

        :raises HeadError: the framing is ambiguous or unknown.
        """
        if self.is_bodiless(method):
            return False, 0
        codings = list_members(self.fields, "transfer-encoding")
        if codings:
            if codings != ["chunked"]:
                raise HeadError("the transfer coding is unknown")
            return True, None
        lengths = set(list_members(self.fields, "content-length"))
        if not lengths:
            return False, None
        length = lengths.pop()
        if lengths or not _LENGTH.fullmatch(length):
            raise HeadError("the length of the body is ambiguous")
        return False, int(length)


class HeadReader:
    """Parses response heads, one after another, fed in any split.

    :ivar unread: the octets fed that are not part of a head returned so far.
    :ivar has_begun: whether anything was fed.
    """

    def __init__(self) -> None:
        self.unread = b""
        self.has_begun = False
        self._searched = 0

    def feed(self, data: bytes) -> None:
        self.unread += data
        self.has_begun = True

    def next_head(self) -> ResponseHead | None:
        """Return the next head, or ``None`` if it is incomplete.

        :raises HeadError: the octets are not the beginning of a head.
        """
        if not self.unread:
            return None
        end, next_start = self._find_end()
        head_bytes = len(self.unread) if end is None else end
        if not self.unread.startswith(_BEGINNING[: len(self.unread)]):
            raise HeadError("not an HTTP/1 response")
        if head_bytes > HEAD_LIMIT_BYTES:
            raise HeadError("the head is too long")
        if end is None:
            self._searched = head_bytes
            return None
        head = self.unread[:head_bytes].decode("latin-1")
        self.unread, self._searched = self.unread[next_start:], 0
        return _parsed(head)

    def _find_end(self) -> tuple[int | None, int]:
        """Return where the head ends, ``None`` if it is incomplete, and where what follows it starts."""
        start = max(0, self._searched - 3)
        ends = [(at, at + len(end)) for end in _ENDS if (at := self.unread.find(end, start)) >= 0]
        if not ends:
            return None, 0
        at, next_start = min(ends)
        return (at - 1 if self.unread[at - 1 : at] == b"\r" else at), next_start


def _parsed(text: str) -> ResponseHead:
    text = text.replace("\r\n", "\n")
    if "\n " in text or "\n\t" in text:
        text = _LINE_FOLD.sub(" ", text)
    status_line, *lines = text.split("\n")
    line = _STATUS_LINE.fullmatch(status_line)
    if line is None:
        raise HeadError("the status line is invalid")
    if len(lines) > FIELD_LIMIT:
        raise HeadError("too many fields")
    fields = []
    for field_line in lines:
        name, colon, value = field_line.partition(":")
        if not colon:
            raise HeadError("a field line has no colon")
        # A proxy must remove whitespace before the colon, which would hide a field from comparisons of names.
        fields.append((name.rstrip(" \t"), value.strip(" \t")))
    return ResponseHead(line[1] == "1", int(line[2]), (line[3] or "").strip(" \t"), fields)
