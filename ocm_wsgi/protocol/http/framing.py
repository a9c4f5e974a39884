"""Bodies of HTTP/1.1 on the wire: taken out of their framing as they arrive, and framed again. Pure; no I/O.

Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import re
from typing import Protocol

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|\Z)")
#: A chunk's first line, extensions included, and all trailer fields together.
_LINE_LIMIT_BYTES = 8 * 1024
_TRAILER_LIMIT_BYTES = 64 * 1024

LAST_CHUNK = b"0\r\n\r\n"


class FramingError(ValueError):
    """The octets are no body in the framing that its head announced.

    :ivar decoded: octets of the body that came before these, in the same piece.
    """

    decoded = b""


class Framing(Protocol):
    """Takes a body out of its framing.

    :ivar has_ended: the body is complete.
    :ivar has_excess: octets came behind its end.
    :ivar was_single_chunk: what was fed last was one whole chunk as ``chunk`` makes it, so it can be sent as it came.
    """

    has_ended: bool
    has_excess: bool
    was_single_chunk: bool

    def feed(self, data: bytes) -> bytes:
        """Return the octets of the body that are in what arrived.

        :raises FramingError: it makes no sense.
        """

    def close(self) -> bool:
        """Nothing more arrives. Return whether the body is complete."""


def framing_for(*, is_chunked: bool, length: int | None) -> Framing:
    """Return what reads a response's body.

    :param length: in octets, or ``None`` for a body that the end of the connection ends.
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
        self._left = 0  # octets of the chunk that are still to come
        self._is_behind_data = False
        self._is_in_trailer = False
        self._trailer_bytes = 0
        self._partial = b""  # a line that is not complete

    def feed(self, data: bytes) -> bytes:
        self.was_single_chunk = False
        if not (self._left or self._partial or self._is_behind_data or self._is_in_trailer):
            # As most times: an event of a stream is one chunk, and arrives alone.
            size_ends = data.find(b"\r\n", 1, 16)
            size = len(data) - size_ends - 4
            if size > 0 and data.startswith(b"%x\r\n" % size) and data.endswith(b"\r\n"):
                self.was_single_chunk = True
                return data[size_ends + 2 : -2]
        pieces: list[bytes] = []
        try:
            self._take(data, pieces)
        except FramingError as exc:
            exc.decoded = b"".join(pieces)
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take(self, data: bytes, pieces: list[bytes]) -> None:
        if self._partial:
            data, self._partial = self._partial + data, b""
        at = 0
        while at < len(data) and not self.has_ended:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._is_behind_data = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep(data[at:])
                break
            self._take_line(data, at, end)
            at = end + 2
        self.has_excess = self.has_ended and at < len(data)

    def close(self) -> bool:
        return self.has_ended

    def _take_line(self, data: bytes, start: int, end: int) -> None:
        if self._is_behind_data:
            if end != start:
                raise FramingError("a chunk is longer than its size")
            self._is_behind_data = False
        elif self._is_in_trailer:
            self._trailer_bytes += end - start
            if self._trailer_bytes > _TRAILER_LIMIT_BYTES:
                raise FramingError("the trailer is too long")
            self.has_ended = end == start
        else:
            size = _SIZE.match(data, start, end)
            if size is None:
                raise FramingError("a chunk's size cannot be read")
            self._left = int(size[1], 16)
            self._is_in_trailer = not self._left

    def _keep(self, partial: bytes) -> None:
        if self._is_behind_data and partial != b"\r":
            raise FramingError("a chunk is longer than its size")
        if len(partial) > _LINE_LIMIT_BYTES:
            raise FramingError("a line of the chunked coding is too long")
        self._partial = partial


class FixedLength:
    """A body of announced length, in octets."""

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
    """One chunk; ``data`` must not be empty, for an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
