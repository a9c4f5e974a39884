"""HTTP/1.1 body framing: decodes bodies as they arrive, and encodes chunks. Pure; no I/O.

Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import re
from typing import Protocol

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|\Z)")
# The longest first line of a chunk, extensions included, and of all trailer fields together.
_LINE_LIMIT_BYTES = 8 * 1024
_TRAILER_LIMIT_BYTES = 64 * 1024

#: The last chunk, with an empty trailer.
LAST_CHUNK = b"0\r\n\r\n"


class FramingError(ValueError):
    """The octets are not valid in the framing announced by the head.

    :ivar decoded: the octets of the body that came before the error, in the same piece.
    """

    decoded = b""


class Framing(Protocol):
    """Decodes the framing of one body.

    :ivar has_ended: whether the body is complete.
    :ivar has_excess: whether octets followed its end.
    :ivar was_single_chunk: whether the last piece fed was one complete chunk as ``chunk`` makes it, so that it can be
        relayed unchanged.
    """

    has_ended: bool
    has_excess: bool
    was_single_chunk: bool

    def feed(self, data: bytes) -> bytes:
        """Return the octets of the body in a piece of data.

        :raises FramingError: the framing is invalid.
        """

    def close(self) -> bool:
        """Handle the end of the connection. Return whether the body is complete."""


def framing_for(*, is_chunked: bool, length: int | None) -> Framing:
    """Return a decoder for a response's body.

    :param length: in octets, or ``None`` for a body that ends with the connection.
    """
    if is_chunked:
        return Chunked()
    return UntilClose() if length is None else FixedLength(length)


class Chunked:
    """The chunked transfer coding; extensions and trailer fields are dropped."""

    def __init__(self) -> None:
        self.has_ended = False
        self.has_excess = False
        self.was_single_chunk = False
        self._left = 0  # octets of the current chunk still to come
        self._is_after_data = False
        self._is_in_trailer = False
        self._trailer_bytes = 0
        self._partial = b""  # an incomplete line

    def feed(self, data: bytes) -> bytes:
        self.was_single_chunk = False
        if not (self._left or self._partial or self._is_after_data or self._is_in_trailer):
            # The usual case: an event of a stream is one chunk and arrives alone.
            size_ends = data.find(b"\r\n", 1, 16)
            size = len(data) - size_ends - 4
            if size > 0 and data.startswith(b"%x\r\n" % size) and data.endswith(b"\r\n"):
                self.was_single_chunk = True
                return data[size_ends + 2 : -2]
        pieces: list[bytes] = []
        try:
            self._decode(data, pieces)
        except FramingError as exc:
            exc.decoded = b"".join(pieces)
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _decode(self, data: bytes, pieces: list[bytes]) -> None:
        if self._partial:
            data, self._partial = self._partial + data, b""
        at = 0
        while at < len(data) and not self.has_ended:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._is_after_data = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._buffer(data[at:])
                break
            self._parse_line(data, at, end)
            at = end + 2
        self.has_excess = self.has_ended and at < len(data)

    def close(self) -> bool:
        return self.has_ended

    def _parse_line(self, data: bytes, start: int, end: int) -> None:
        if self._is_after_data:
            if end != start:
                raise FramingError("a chunk is longer than its size")
            self._is_after_data = False
        elif self._is_in_trailer:
            self._trailer_bytes += end - start
            if self._trailer_bytes > _TRAILER_LIMIT_BYTES:
                raise FramingError("the trailer is too long")
            self.has_ended = end == start
        else:
            size = _SIZE.match(data, start, end)
            if size is None:
                raise FramingError("a chunk's size is invalid")
            self._left = int(size[1], 16)
            self._is_in_trailer = not self._left

    def _buffer(self, partial: bytes) -> None:
        if self._is_after_data and partial != b"\r":
            raise FramingError("a chunk is longer than its size")
        if len(partial) > _LINE_LIMIT_BYTES:
            raise FramingError("a line of the chunked coding is too long")
        self._partial = partial


class FixedLength:
    """A body of known length.

    :param length: in octets.
    """

    was_single_chunk = False

    def __init__(self, length: int) -> None:
        self.has_ended = not length
        self.has_excess = False
        self._left = length

    def feed(self, data: bytes) -> bytes:
        self.has_excess = len(data) > self._left
        if self.has_excess:
            data = data[: self._left]
        self._left -= len(data)
        self.has_ended = not self._left
        return data

    def close(self) -> bool:
        return self.has_ended


class UntilClose:
    """A body that ends with its connection."""

    was_single_chunk = False

    def __init__(self) -> None:
        self.has_ended = False
        self.has_excess = False

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bool:
        self.has_ended = True
        return True


def chunk(data: bytes) -> bytes:
    """Return one chunk. ``data`` must not be empty, because an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
