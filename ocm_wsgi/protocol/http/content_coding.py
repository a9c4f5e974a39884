"""Decodes content codings (RFC 9110 section 8.4.1) incrementally into bounded pieces. Pure; no I/O.

For copies that are only inspected: the relayed body stays encoded. A few kilobytes can decode to gigabytes, so a body
that expands more than real ones do is given up: what it costs to read is then in proportion to what it cost to send. No
piece of output exceeds a few MiB, and no call yields more, as in an event loop others wait for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

_PIECE_SIZE = 1024 * 1024

# RFC 9659: a zstd content coding needs no window larger than 8 MB.
_ZSTD_WINDOW_SIZE = 8 * 1024 * 1024

# A block of 4 octets can decode to 128 KiB, and the library decodes all of its input: here at most 8 MiB.
_ZSTD_SLICE_SIZE = 256

#: Text and events shrink to a tenth, or a thirtieth if they repeat themselves. A small body may expand to this size ...
UNBOUNDED_RATIO_BYTES = 1024 * 1024
#: ... and a larger one by this factor.
LARGEST_RATIO = 100
#: What is large because of images hardly shrinks. A body that decodes to more than this may expand by this factor.
LARGE_BYTES = 8 * 1024 * 1024
LARGEST_RATIO_OF_LARGE = 20
#: The most that one call decodes; it takes some 10 ms with what is done with it.
CALL_LIMIT_BYTES = 4 * 1024 * 1024


# ``identity`` is no coding.
_READABLE = frozenset({"identity", "gzip", "x-gzip", "deflate", "zstd"})


def readable_codings(accept_encoding: str) -> str:
    """Return a value of ``Accept-Encoding`` without the codings that :func:`decoder_for` does not know.

    ``*`` is one of them. If nothing remains, the result is ``identity``, as an empty field would allow any coding with
    some servers.
    """
    members = accept_encoding.split(",")
    readable = [member for member in members if member.partition(";")[0].strip().lower() in _READABLE]
    if len(readable) == len(members):
        return accept_encoding
    return ", ".join(map(str.strip, readable)) or "identity"


class DecodingError(ValueError):
    """The body does not match its ``Content-Encoding``, has an unknown coding, or expands too much."""


class Decoder(Protocol):
    """Decodes one content coding."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded data of these octets, in pieces.

        :param data: tens of KiB at most, or the limit of a call is exceeded.
        :raises DecodingError: while iterating; do not use the decoder after that.
        """


def decoder_for(content_encoding: str) -> Decoder | None:
    """Return a decoder for a ``Content-Encoding``, or ``None`` if nothing is encoded.

    :raises DecodingError: the coding is unknown, or there are several.
    """
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip"):
        return _Bounded(_Zlib(zlib.MAX_WBITS | 16))
    if coding == "deflate":
        return _Bounded(_Deflate())
    if coding == "zstd":
        return _Bounded(_Zstd())
    raise DecodingError(f"The content coding {coding[:32]!r} is unknown.")


class _Bounded:
    """Gives a body up that expands too much."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner
        self._received = 0
        self._decoded = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        self._received += len(data)
        limit = min(_largest_size(self._received), self._decoded + CALL_LIMIT_BYTES)
        for piece in self._inner.decode(data):
            self._decoded += len(piece)
            if self._decoded > limit:
                raise DecodingError("The body expands too much.")
            yield piece


def _largest_size(received: int) -> int:
    """Return how many octets so many may decode to."""
    large = max(LARGE_BYTES, LARGEST_RATIO_OF_LARGE * received)
    return max(UNBOUNDED_RATIO_BYTES, min(LARGEST_RATIO * received, large))


class _Zlib:
    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(window_bits)

    def decode(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        while data or len(piece) == _PIECE_SIZE:
            if self._stream.eof:  # gzip allows several members (RFC 1952 section 2.2)
                self._stream = zlib.decompressobj(self._window_bits)
            try:
                piece = self._stream.decompress(data, _PIECE_SIZE)
            except zlib.error as exc:
                raise DecodingError(str(exc)) from exc
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece


class _Deflate:
    """``deflate`` means the zlib format (RFC 1950), but some senders omit its header."""

    def __init__(self) -> None:
        self._inner: _Zlib | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None and data:
            # The low half of a zlib header's first octet is 8. No deflate block begins like that: its padding is zero.
            has_header = data[0] & 0x0F == 8
            self._inner = _Zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if self._inner is not None:
            yield from self._inner.decode(data)


class _Zstd:
    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_SIZE)
        self._stream = decompressor.decompressobj(read_across_frames=True)

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE_SIZE):
            try:
                piece = self._stream.decompress(data[start : start + _ZSTD_SLICE_SIZE])
            except zstandard.ZstdError as exc:
                raise DecodingError(str(exc)) from exc
            if piece:
                yield piece
