"""Reads short fields of submitted forms, and refuses a form that two parsers might read differently. Pure; no I/O.

A form is relayed as it is, and upstream parses it once more. So a form is read only if it has no text before its first
part or after its last one, if its boundary occurs nowhere but in delimiters, and if each part is named unmistakably.

Source: RFC 7578 and RFC 2046 section 5.1.1; the URL standard's ``application/x-www-form-urlencoded``.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from urllib.parse import parse_qsl

#: The largest form of the kind ``application/x-www-form-urlencoded`` that is read.
URLENCODED_LIMIT_BYTES = 256 * 1024

#: The longest value of a field that is read; a longer one makes the form unreadable.
LONGEST_VALUE_BYTES = 64 * 1024

_MOST_PARTS = 1000
_LONGEST_PART_HEAD = 8 * 1024
_CRLF = b"\r\n"

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TCHARS})=(?:"([^"\\\r\n]*)"|({_TCHARS}))')
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_FIELD_LINE = re.compile(rf"({_TCHARS}):[ \t]*([^\r\n\0]*)")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\[\]\-]+")
_CHARSETS = frozenset({"", "utf-8", "us-ascii", "iso-8859-1"})
_IDENTITY_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


class FormError(ValueError):
    """The form is malformed, ambiguous, or too large to be read."""


def parameters_of(value: str) -> tuple[str, Mapping[str, str]]:
    """Return the part of a field's value before its parameters, in lower case, and the parameters by name.

    :raises FormError: the value is malformed, or repeats a parameter.
    """
    kind, semicolon, rest = value.partition(";")
    parameters: dict[str, str] = {}
    at, rest = 0, semicolon + rest.rstrip(" \t")
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None or found[1].lower() in parameters:
            raise FormError("A parameter is malformed or repeated.")
        parameters[found[1].lower()] = found[3] if found[2] is None else found[2]
        at = found.end()
    return kind.strip().lower(), parameters


def urlencoded_fields(body: bytes, names: Container[str]) -> dict[str, str]:
    """Return the values of some fields of a form.

    :param body: no longer than ``URLENCODED_LIMIT_BYTES``.
    :raises FormError: see the module.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_PARTS,
        )
    except ValueError as exc:
        raise FormError("The form is malformed.") from exc
    values: dict[str, str] = {}
    for name, value in pairs:
        if not _FIELD_NAME.fullmatch(name):
            raise FormError("The name of a field is malformed.")
        if _is_wanted(name, names):
            _add(values, name, value)
    return values


class MultipartReader:
    """Reads some short fields out of a ``multipart/form-data`` body of any size, fed in pieces.

    :param parameters: of the body's media type.
    :param names: the fields to read.
    :raises FormError: the boundary is missing or invalid, or there are other parameters than it and ``charset``.
    """

    def __init__(self, parameters: Mapping[str, str], names: Container[str]) -> None:
        boundary = parameters.get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary) or not parameters.keys() <= {"boundary", "charset"}:
            raise FormError("The boundary is missing or malformed.")
        self.values: dict[str, str] = {}
        self._names = names
        self._dashes = b"--" + boundary.encode("ascii")
        self._buffer = bytearray(_CRLF)  # so that the first delimiter has the form of all others
        self._step = self._first_delimiter
        self._parts = 0
        self._name: str | None = None  # of the open part, if its value is wanted
        self._value = bytearray()

    def feed(self, piece: bytes) -> None:
        """:raises FormError: see the module."""
        self._buffer += piece
        while self._step():
            pass

    def finish(self) -> dict[str, str]:
        """Return the values by name.

        :raises FormError: the form is incomplete.
        """
        if self._step != self._epilogue:
            raise FormError("The form is incomplete.")
        return self.values

    # Each step returns whether it has consumed something that another step follows.

    def _first_delimiter(self) -> bool:
        if len(self._buffer) < len(self._dashes) + 4:
            return False
        return self._delimiter(0)

    def _delimiter(self, at: int) -> bool:
        """Read the delimiter at ``at``, of which at least the two octets after it are in the buffer."""
        stop = at + len(_CRLF) + len(self._dashes)
        if self._buffer[at : at + 2] != _CRLF or not self._buffer.startswith(self._dashes, at + 2):
            raise FormError("There is text before the first part, or the boundary occurs elsewhere.")
        ending = self._buffer[stop : stop + 2]
        if ending == _CRLF:
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise FormError("There are too many parts.")
            self._step = self._part_head
        elif ending == b"--":
            self._step = self._epilogue
        else:
            raise FormError("A delimiter is malformed.")
        del self._buffer[: stop + 2]
        return True

    def _part_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > _LONGEST_PART_HEAD:
            if len(self._buffer) > _LONGEST_PART_HEAD:
                raise FormError("The head of a part is too long.")
            return False
        head = self._buffer[:end].decode("latin-1")
        if self._dashes.decode("ascii") in head:
            raise FormError("The boundary occurs in the head of a part.")
        self._name = _name_of(head, self._names)
        del self._buffer[: end + 4]
        self._step = self._content
        return True

    def _content(self) -> bool:
        dashes = self._buffer.find(self._dashes)
        # Octets that may belong to a delimiter are left for later.
        stop = dashes - 2 if dashes >= 0 else len(self._buffer) - len(self._dashes) - 1
        if 0 <= dashes < 2:
            raise FormError("The boundary occurs elsewhere than in a delimiter.")
        if self._name is not None and stop > 0:
            self._value += self._buffer[:stop]
            if len(self._value) > LONGEST_VALUE_BYTES:
                raise FormError("The value of a field is too long.")
        if stop > 0:
            del self._buffer[:stop]
        if dashes < 0 or len(self._buffer) < len(self._dashes) + 4:
            return False
        if self._name is not None:
            _add(self.values, self._name, _text(self._value))
            self._value.clear()
        return self._delimiter(0)

    def _epilogue(self) -> bool:
        if not _CRLF.startswith(self._buffer):
            raise FormError("There is text after the last part.")
        return False


def _name_of(head: str, names: Container[str]) -> str | None:
    """Return the name of a part with this head if its value is wanted.

    :raises FormError: the head is malformed, or a wanted value is a file or encoded.
    """
    fields: dict[str, str] = {}
    for line in head.split("\r\n"):
        found = _FIELD_LINE.fullmatch(line)
        if found is None or found[1].lower() in fields:
            raise FormError("The head of a part is malformed.")
        fields[found[1].lower()] = found[2]
    kind, parameters = parameters_of(fields.get("content-disposition", ""))
    name = parameters.get("name")
    if kind != "form-data" or name is None or not parameters.keys() <= {"name", "filename", "filename*"}:
        raise FormError("A part is not named.")
    if not _is_wanted(name, names):
        return None
    if len(parameters) > 1 or fields.get("content-transfer-encoding", "binary").lower() not in _IDENTITY_ENCODINGS:
        raise FormError("A field is sent as a file, or encoded.")
    _, of_type = parameters_of(fields.get("content-type", ""))
    if of_type.get("charset", "").lower() not in _CHARSETS:
        raise FormError("A field is in an unknown charset.")
    return name


def _is_wanted(name: str, names: Container[str]) -> bool:
    """:raises FormError: some parser might take the name for a wanted one, and others might not."""
    if name in names:
        return True
    if re.split(r"[^A-Za-z0-9_\-]", name.strip().casefold(), maxsplit=1)[0] in names:
        raise FormError("The name of a field is ambiguous.")
    return False


def _text(value: bytearray) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise FormError("The value of a field is not UTF-8.") from exc


def _add(values: dict[str, str], name: str, value: str) -> None:
    if values.setdefault(name, value) != value:
        raise FormError("A field is repeated with another value.")
