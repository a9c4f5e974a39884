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
        known = [self.remembered.get(line) for line in lines]
        unknown = [line for line, field in zip(lines, known, strict=True) if field is None]
        try:
            parsed = self._parsed(b"\r\n".join(unknown)) if unknown else []
        except ParseException:
            return self._parsed(data)  # Raises for the first reason there is.
        names = [field[0] for field in (*filter(None, known), *parsed)]
        if len(parsed) < len(unknown) or any(names.count(name) > 1 for name in RFC9110_5_3_SINGLETON_FIELDS):
            return self._parsed(data)  # A field is dropped, or repeated though it must not be.
        self._remember(unknown, parsed)
        rest = iter(parsed)
        return [field or next(rest) for field in known]

    def _are_independent(self, lines: list[bytes]) -> bool:
        """Return whether no line continues another, and gunicorn compares none with another."""
        return (
            len(lines) <= self.limit_request_fields
            and not self.cfg.secure_scheme_headers
            and not any(line.startswith((b" ", b"\t")) for line in lines)
        )

    def _remember(self, lines: list[bytes], fields: list[tuple[str, str]]) -> None:
        for line, field in zip(lines, fields, strict=True):
            # Whether a name with an underscore passes depends on who sends it.
            if len(line) <= LONGEST_LINE and "_" not in field[0] and field[0] not in _NOT_REMEMBERED:
                if len(self.remembered) >= MOST_LINES:
                    self.remembered.clear()
                self.remembered[line] = field

    def _parsed(self, data: bytes, *, from_trailer: bool = False) -> list[tuple[str, str]]:
        fields: list[tuple[str, str]] = super().parse_headers(data, from_trailer=from_trailer)
        return fields


def remember_lines(parser: Any) -> None:
    """Make a connection's parser remember field lines."""
    if getattr(parser, "mesg_class", None) is Request:
        parser.mesg_class = RememberingRequest
