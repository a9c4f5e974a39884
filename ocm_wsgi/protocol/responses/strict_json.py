"""Reads JSON that every parser reads alike, and refuses any other text. Pure; no I/O.

What a user may do depends on the request's body, which upstream parses once more. A body that two parsers might read
differently is therefore not read at all: a repeated key, octets that are no UTF-8, a byte order mark, text around the
document, comments, ``NaN`` and the like.

Source: RFC 8259.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, NoReturn

import jiter

#: The longest text that is parsed. It takes a few milliseconds as a rule, and 0.1 s if it is made of brackets.
PARSED_LIMIT_BYTES = 1024 * 1024

# Longer strings are left out of a shortened document. A longer name of a model is therefore not found in a large body.
_LONGEST_KEPT_STRING = 128

# Each takes a tenth of a microsecond. Text with more of them in one request is not read.
_MOST_ESCAPES = 4_000_000

_CONTROL_CHARACTERS = bytes(range(0x20))
_SHORT_ESCAPE = re.compile(rb'\\["\\/bfnrt]')
_LONG_ESCAPE = re.compile(rb"\\u[0-9A-Fa-f]{4}")
_INCOMPLETE_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")


class NotStrictJson(ValueError):
    """The text is not a JSON object that every parser reads alike, or reading it takes too long."""


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, repeated ones included."""


def strict_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object of at most ``PARSED_LIMIT_BYTES``, none of whose own keys is repeated.

    :raises NotStrictJson: the text is anything else.
    """
    if len(text) > PARSED_LIMIT_BYTES:
        raise NotStrictJson("The document is too large to be parsed.")
    try:
        parsed = jiter.from_json(text, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError:
        return _lenient_object(text)
    if not isinstance(parsed, dict):
        raise NotStrictJson("The document is not an object.")
    return parsed


def _lenient_object(text: bytes) -> dict[str, Any]:
    """Parse what jiter refuses though it is valid: lone surrogates, and repeated keys in inner objects."""
    try:
        pairs = _PAIRS_DECODER.decode(text.decode())
    except (ValueError, RecursionError) as exc:
        raise NotStrictJson("The document is not valid JSON.") from exc
    if not isinstance(pairs, _Pairs):
        raise NotStrictJson("The document is not an object.")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJson("A key is repeated.")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON.")


# Numbers stay text: Python refuses to convert integers of thousands of digits, which are valid.
_PAIRS_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_constant=_refuse_constant, parse_int=str, parse_float=str
)


class DocumentShortener:
    """Shortens a JSON document of any size, fed in pieces, so that it can be parsed at once.

    Almost all of a large body is a few long strings, such as images. Each is checked and replaced with another string
    that equals no other. What remains says the same about all other members, and is invalid if the document is.
    """

    def __init__(self) -> None:
        self._shortened = bytearray()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._tail = b""  # an escape sequence that the next piece completes
        self._is_in_string = False
        self._string = bytearray()  # content of the open string, while that is short
        self._is_long = False
        self._long_strings = 0
        self._escapes = 0

    def feed(self, piece: bytes) -> None:
        """:raises NotStrictJson: the document is invalid, or too intricate."""
        self._decode(piece, final=False)
        text = self._tail + piece
        masked = self._mask_escapes(text) if b"\\" in text else text
        incomplete = _INCOMPLETE_ESCAPE.search(masked, max(len(masked) - 5, 0))
        stop = incomplete.start() if incomplete else len(text)
        self._tail = text[stop:]
        if masked.find(b"\\", 0, stop) >= 0:
            raise NotStrictJson("An escape sequence is invalid.")
        self._split_at_quotes(text, masked, stop)
        if len(self._shortened) > PARSED_LIMIT_BYTES:
            raise NotStrictJson("The document is too intricate to be parsed.")

    def finish(self) -> dict[str, Any]:
        """Return the document's object, with other strings in place of long ones.

        :raises NotStrictJson: the document is not an object that every parser reads alike.
        """
        self._decode(b"", final=True)
        if self._is_in_string or self._tail:
            raise NotStrictJson("The document is incomplete.")
        return strict_object(bytes(self._shortened))

    def _decode(self, piece: bytes, *, final: bool) -> None:
        try:
            self._utf8.decode(piece, final)
        except UnicodeDecodeError as exc:
            raise NotStrictJson("The document is not UTF-8.") from exc

    def _mask_escapes(self, text: bytes) -> bytes:
        """Return the text with other octets in place of valid escape sequences, of the same length."""
        masked, count = _SHORT_ESCAPE.subn(b"__", text)
        if b"\\u" in masked:
            masked, more = _LONG_ESCAPE.subn(b"______", masked)
            count += more
        self._escapes += count
        if self._escapes > _MOST_ESCAPES:
            raise NotStrictJson("The document has too many escape sequences.")
        return masked

    def _split_at_quotes(self, text: bytes, masked: bytes, stop: int) -> None:
        at = 0
        while (quote := masked.find(b'"', at, stop)) >= 0:
            if self._is_in_string:
                self._add_content(text[at:quote])
                self._end_string()
            else:
                self._shortened += text[at:quote]
            self._is_in_string = not self._is_in_string
            at = quote + 1
        if self._is_in_string:
            self._add_content(text[at:stop])
        else:
            self._shortened += text[at:stop]

    def _add_content(self, content: bytes) -> None:
        if not self._is_long:
            self._string += content
            if len(self._string) <= _LONGEST_KEPT_STRING:
                return
            self._is_long = True
            content = bytes(self._string)
        if len(content.translate(None, _CONTROL_CHARACTERS)) != len(content):
            raise NotStrictJson("A string contains a control character.")

    def _end_string(self) -> None:
        if self._is_long:
            self._long_strings += 1
            # A name that no label is: it contains NUL.
            self._shortened += b'"\\u0000%d"' % self._long_strings
        else:
            self._shortened += b'"%b"' % bytes(self._string)
        self._string.clear()
        self._is_long = False
