"""gunicorn's parser of request heads, with a memory of field lines.

A client sends most of its field lines with each request. What a line says, and whether it is valid, depends on nothing
but the line, so that gunicorn has to parse it only once. Everything that involves several lines, or the connection, is
left to gunicorn.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.message import RFC9110_5_3_SINGLETON_FIELDS, Request

#: The most lines that are remembered, and the longest, in bytes.
MOST_LINES = 512
LONGEST_LINE = 256

# Secrets, and what differs from one request to the next; and ``Expect``, which changes how the request is handled.
_NOT_REMEMBERED = frozenset({"AUTHORIZATION", "COOKIE", "PROXY-AUTHORIZATION", "CONTENT-LENGTH", "EXPECT"})


class RememberingRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request whose fields are those that gunicorn finds."""

    remembered: dict[bytes, tuple[str, str]] = {}  # noqa: RUF012 - shared by all requests of the process

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        """Return the fields in a head, with names in upper case."""
        lines = data.split(b"\r\n")
        if from_trailer or not self._are_independent(lines):
            return self._parsed(data, from_trailer=from_trailer)
        fields: list[tuple[str, str]] = []
        try:
            for line in lines:
                known = self.remembered.get(line)
                fields += self._parsed_line(line) if known is None else (known,)
        except ParseException:
            return self._parsed(data)  # Raises for the first reason there is.
        names = [name for name, _ in fields]
        if any(names.count(name) > 1 for name in RFC9110_5_3_SINGLETON_FIELDS):
            return self._parsed(data)  # Raises.
        return fields

    def _are_independent(self, lines: list[bytes]) -> bool:
        """Return whether no line continues another, and gunicorn compares none with another."""
        return (
            len(lines) <= self.limit_request_fields
            and not self.cfg.secure_scheme_headers
            and not any(line.startswith((b" ", b"\t")) for line in lines)
        )

    def _parsed_line(self, line: bytes) -> list[tuple[str, str]]:
        fields = self._parsed(line)
        # Whether a name with an underscore passes depends on who sends it.
        if len(line) <= LONGEST_LINE and fields and "_" not in fields[0][0] and fields[0][0] not in _NOT_REMEMBERED:
            if len(self.remembered) >= MOST_LINES:
                self.remembered.clear()
            self.remembered[line] = fields[0]
        return fields

    def _parsed(self, data: bytes, *, from_trailer: bool = False) -> list[tuple[str, str]]:
        fields: list[tuple[str, str]] = super().parse_headers(data, from_trailer=from_trailer)
        return fields


def remember_lines(parser: Any) -> None:
    """Make a connection's parser remember field lines."""
    if getattr(parser, "mesg_class", None) is Request:
        parser.mesg_class = RememberingRequest
