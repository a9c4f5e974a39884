"""Reads the model and the service tier out of a request body or a ``response.create`` message. Pure; no I/O.

A body may have any size and is never held whole. A small one is parsed; a larger one is scanned once for members of
its top-level object, in constant memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ocm_wsgi.protocol.http.content_coding import DecodingError, decoder_for
from ocm_wsgi.protocol.responses.outcome import label, parse_json

#: No request, be it a body or a message, is decoded beyond this size.
DECODED_LIMIT_BYTES = 128 * 1024 * 1024

_CREATE_TYPE = "response.create"

# Up to this size a body is parsed, which is exact and takes a few milliseconds.
_PARSED_BYTES = 1024 * 1024

# A scan takes about a third of a microsecond per step; a body made of brackets is given up after some 0.4 s.
_SCAN_STEPS = 1_000_000
_LONGEST_TOKEN = 512

_MEMBERS = ("model", "service_tier")
_QUOTE_OR_BRACKET = re.compile(rb'["{}\[\]]')
_PUNCTUATION = re.compile(rb'["{}\[\]:,]')


@dataclass(frozen=True)
class RequestFacts:
    """What a request asks for; ``None`` where the request does not say, or could not be read.

    A model of ``None`` is unknown and must not pass as one that the user may use.
    """

    model: str | None = None
    service_tier: str | None = None


@dataclass(frozen=True)
class ResponseCreate:
    """A WebSocket message that asks for a turn.

    :ivar facts: all ``None`` if the message could not be read.
    :ivar is_prewarm: nothing is to be generated (``"generate": false``). Always ``False`` above 1 MiB, where the
        message is not parsed.
    """

    facts: RequestFacts
    is_prewarm: bool = False


def request_facts(blocks: Iterable[bytes], content_encoding: str = "") -> RequestFacts:
    """Return what the body of a request asks for.

    If a member is repeated the last one counts, as in most JSON parsers.

    :param blocks: the body, in blocks of any size, read to the end; at most tens of KiB each keep memory use small.
    :param content_encoding: the body's ``Content-Encoding``; a body that cannot be decoded has no facts.
    """
    small = bytearray()
    scanner: _Scanner | None = None
    try:
        for block in _decoded(blocks, content_encoding):
            if scanner is None and len(small) + len(block) > _PARSED_BYTES:
                scanner = _Scanner()
                scanner.feed(bytes(small))
            if scanner is None:
                small += block
            else:
                scanner.feed(block)
    except (DecodingError, _TooIntricate):
        return RequestFacts()
    if scanner is not None:
        return _facts(scanner.members)
    body = parse_json(small)
    return _facts(body) if isinstance(body, dict) else RequestFacts()


def response_create(blocks: Iterable[bytes]) -> ResponseCreate | None:
    """Return what a client's WebSocket message asks for, or ``None`` if it is certainly not a ``response.create``.

    Above 1 MiB every message counts as a ``response.create``: clients send nothing else of that size.

    :param blocks: the message, unmasked and decompressed, read to the end. Iterating may raise ``DecodingError``.
    """
    remaining = iter(blocks)
    small = bytearray()
    try:
        for block in remaining:
            small += block
            if len(small) > _PARSED_BYTES:
                facts = request_facts(chain((bytes(small),), remaining))
                for _ in remaining:
                    # The decompressor must see the whole message, even if the scan gave up.
                    pass
                return ResponseCreate(facts)
    except DecodingError:
        return ResponseCreate(RequestFacts())
    return _parsed_create(bytes(small))


def _parsed_create(text: bytes) -> ResponseCreate | None:
    members = parse_json(text)
    if not isinstance(members, dict):
        return ResponseCreate(RequestFacts())
    # We and upstream may read a repeated member differently, so the type must not appear anywhere in the text either.
    if members.get("type") != _CREATE_TYPE and _CREATE_TYPE.encode() not in text:
        return None
    return ResponseCreate(_facts(members), is_prewarm=members.get("generate") is False)


def _facts(members: dict[str, object]) -> RequestFacts:
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
    """Collects the members in ``_MEMBERS`` of a top-level JSON object that is fed in pieces.

    Assumes that the body is JSON. The result for any other body is of no use, but upstream refuses such a body anyway.

    :ivar members: the values found that are strings or literals.
    """

    def __init__(self) -> None:
        self.members: dict[str, object] = {}
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
        if self._key in _MEMBERS:
            self.members[self._key] = parse_json(self._token)
        self._key = None
        self._token.clear()
