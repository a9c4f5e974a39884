"""What a request asks for: model, service tier, streaming. Pure; no I/O.

Found in a body of any size without holding it. A small body is parsed; a larger one is scanned once for the members
of its top-level object, in constant memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError, decoder_for
from ocm_wsgi.protocol.responses.outcome import label, parse_json

#: Up to here a body is parsed whole, which is exact and takes a few milliseconds.
_PARSED_BYTES = 1024 * 1024

#: A scan costs about a third of a microsecond a step; a body made of brackets is given up after some 0.4 s.
_SCAN_STEPS = 1_000_000
_DECODED_LIMIT_BYTES = 128 * 1024 * 1024
_LONGEST_TOKEN = 512

_WANTED = ("model", "service_tier", "stream")
_QUOTE_OR_BRACKET = re.compile(rb'["{}\[\]]')
_PUNCTUATION = re.compile(rb'["{}\[\]:,]')


@dataclass(frozen=True)
class RequestFacts:
    """What the body asks for; ``None`` where it does not say, or could not be read.

    A model that is ``None`` is not known: it must not pass as one that a user may use.
    """

    model: str | None = None
    service_tier: str | None = None
    stream: bool | None = None


def request_facts(blocks: Iterable[bytes], content_encoding: str = "") -> RequestFacts:
    """Read what a request asks for out of its body.

    Of members that come twice the last one counts, as in most JSON parsers.

    :param blocks: the body, in blocks of any size; at most tens of KiB each keep memory small. Read to its end.
    :param content_encoding: its ``Content-Encoding``; a body that cannot be decoded says nothing.
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


def _facts(members: dict[str, object]) -> RequestFacts:
    stream = members.get("stream")
    return RequestFacts(
        label(members.get("model")),
        label(members.get("service_tier")),
        stream if isinstance(stream, bool) else None,
    )


def _decoded(blocks: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    decoder = decoder_for(content_encoding)
    if decoder is None:
        yield from blocks
        return
    length = 0
    for block in blocks:
        for piece in decoder.decode(block):
            length += len(piece)
            if length > _DECODED_LIMIT_BYTES:
                raise DecodingError("The decoded body is too large to read.")
            yield piece


class _TooIntricate(ValueError):
    """The body has more brackets and strings than a scan is given time for."""


class _Scanner:
    """Collect the wanted members of a top-level JSON object that is fed in pieces.

    Trusts the body to be JSON, and finds nothing much where it is not: upstream refuses such a body anyway.

    :ivar members: the values of the wanted members that are strings or literals.
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
        """Go to the end of the string that is open, or to the end of the block."""
        quote = block.find(b'"', at)
        stop = len(block) if quote < 0 else quote
        run = stop - at - len(block[at:stop].rstrip(b"\\")) if block[stop - 1 : stop] == b"\\" and stop > at else 0
        backslashes = run + (self._backslashes if run == stop - at else 0)
        self._take(block, at, stop + 1)
        self._backslashes = backslashes if quote < 0 else 0
        if quote >= 0 and backslashes % 2 == 0:
            self._in_string = False
        return stop + 1

    def _structure(self, block: bytes, at: int) -> int:
        """Go to the next mark that matters, and behind it."""
        found = (_PUNCTUATION if self._depth == 1 else _QUOTE_OR_BRACKET).search(block, at)
        stop = len(block) if found is None else found.start()
        self._take(block, at, stop)
        mark = b"" if found is None else found[0]
        if mark == b'"':
            self._in_string = True
            self._take(block, stop, stop + 1)
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

    def _take(self, block: bytes, start: int, stop: int) -> None:
        """Keep what may be a key or a short value."""
        if self._depth == 1 and len(self._token) < _LONGEST_TOKEN:
            self._token += block[start : min(stop, start + _LONGEST_TOKEN)]

    def _end_key(self) -> None:
        key = parse_json(self._token)
        self._key = key if isinstance(key, str) else None
        self._token.clear()

    def _end_member(self) -> None:
        if self._key in _WANTED:
            self.members[self._key] = parse_json(self._token)
        self._key = None
        self._token.clear()
