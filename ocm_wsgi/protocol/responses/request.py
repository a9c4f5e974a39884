"""Reads the model and the service tier out of a request body, or other members out of a message. Pure; no I/O.

A body may have any size and is never held whole. A small one is parsed; a larger one is scanned once for members of
its top-level object, in constant memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError, decoder_for
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.outcome import parse_json

#: No request, be it a body or a message, is decoded beyond this size.
DECODED_LIMIT_BYTES = 128 * 1024 * 1024

# Up to this size a body is parsed, which is exact and takes a few milliseconds.
_PARSED_BYTES = 1024 * 1024

# A scan takes about a third of a microsecond per step; a body made of brackets is given up after some 0.4 s.
_SCAN_STEPS = 1_000_000
_LONGEST_TOKEN = 512

_QUOTE_OR_BRACKET = re.compile(rb'["{}\[\]]')
_PUNCTUATION = re.compile(rb'["{}\[\]:,]')


@dataclass(frozen=True)
class RequestFacts:
    """What a request asks for; ``None`` where the request does not say, or could not be read.

    A model of ``None`` is unknown and must not pass as one that the user may use.
    """

    model: str | None = None
    service_tier: str | None = None


def request_facts(blocks: Iterable[bytes], content_encoding: str = "") -> RequestFacts:
    """Return what the body of a request asks for.

    :param blocks: the body, in blocks of any size, read to the end; at most tens of KiB each keep memory use small.
    :param content_encoding: the body's ``Content-Encoding``; a body that cannot be decoded has no facts.
    """
    try:
        members = top_level_members(_decoded(blocks, content_encoding), ("model", "service_tier"))
    except DecodingError:
        return RequestFacts()
    return RequestFacts() if members is None else facts_of(members)


def top_level_members(blocks: Iterable[bytes], names: Collection[str]) -> Mapping[str, object] | None:
    """Return the members of a JSON object that have one of these names, without those that are absent.

    If a member is repeated the last one counts, as in most JSON parsers. Above 1 MiB only strings and literals are
    returned.

    :return: ``None`` if the document is no JSON object, or too intricate to be read in time.
    :raises DecodingError: raised by ``blocks``.
    """
    small = bytearray()
    scanner: _Scanner | None = None
    try:
        for block in blocks:
            if scanner is None and len(small) + len(block) > _PARSED_BYTES:
                scanner = _Scanner(names)
                scanner.feed(bytes(small))
            if scanner is None:
                small += block
            else:
                scanner.feed(block)
    except _TooIntricate:
        return None
    if scanner is not None:
        return scanner.members
    body = parse_json(small)
    return {name: body[name] for name in names if name in body} if isinstance(body, dict) else None


def facts_of(members: Mapping[str, object]) -> RequestFacts:
    """Return the facts in the members ``model`` and ``service_tier``."""
    return RequestFacts(label(members.get("model")), label(members.get("service_tier")))


def _decoded(blocks: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    decoder = decoder_for(content_encoding)
    if decoder is None:
        yield from blocks
        return
    length = 0
    for block in blocks:
        for piece in decoder.decode(block):
            length += len(piece)
            if length > DECODED_LIMIT_BYTES:
                raise DecodingError("The decoded body is too large to read.")
            yield piece


class _TooIntricate(ValueError):
    """The body has too many brackets and strings to be scanned in time."""


class _Scanner:
    """Collects some members of a top-level JSON object that is fed in pieces.

    Assumes that the body is JSON. The result for any other body is of no use, but upstream refuses such a body anyway.

    :param names: of the members.
    :ivar members: the values found that are strings or literals.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.members: dict[str, object] = {}
        self._names = names
        self._depth = 0
        self._in_string = False
        self._backslashes = 0
        self._key: str | None = None
        self._token = bytearray()
        self._steps = 0

    def feed(self, block: bytes) -> None:
        """:raises _TooIntricate: the scan takes too long."""
        at = 0
        while at < len(block):
            self._steps += 1
            at = self._string(block, at) if self._in_string else self._structure(block, at)
        if self._steps > _SCAN_STEPS:
            raise _TooIntricate

    def _string(self, block: bytes, at: int) -> int:
        """Return where the open string ends, or the block."""
        quote = block.find(b'"', at)
        stop = len(block) if quote < 0 else quote
        run = stop - at - len(block[at:stop].rstrip(b"\\")) if block[stop - 1 : stop] == b"\\" and stop > at else 0
        backslashes = run + (self._backslashes if run == stop - at else 0)
        self._collect(block, at, stop + 1)
        self._backslashes = backslashes if quote < 0 else 0
        if quote >= 0 and backslashes % 2 == 0:
            self._in_string = False
        return stop + 1

    def _structure(self, block: bytes, at: int) -> int:
        """Process the next punctuation mark that matters, and return the position after it."""
        found = (_PUNCTUATION if self._depth == 1 else _QUOTE_OR_BRACKET).search(block, at)
        stop = len(block) if found is None else found.start()
        self._collect(block, at, stop)
        mark = b"" if found is None else found[0]
        if mark == b'"':
            self._in_string = True
            self._collect(block, stop, stop + 1)
        elif mark in (b"{", b"["):
            self._depth += 1
        elif mark in (b"}", b"]"):
            if self._depth == 1:
                self._end_member()
            self._depth -= 1
        elif mark == b":":
            self._end_key()
        elif mark == b",":
            self._end_member()
        return stop + 1

    def _collect(self, block: bytes, start: int, stop: int) -> None:
        """Collect what may be a key or a short value."""
        if self._depth == 1 and len(self._token) < _LONGEST_TOKEN:
            self._token += block[start : min(stop, start + _LONGEST_TOKEN)]

    def _end_key(self) -> None:
        key = parse_json(self._token)
        self._key = key if isinstance(key, str) else None
        self._token.clear()

    def _end_member(self) -> None:
        if self._key is not None and self._key in self._names:
            self.members[self._key] = parse_json(self._token)
        self._key = None
        self._token.clear()
