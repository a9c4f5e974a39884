"""Reads whole request bodies before anything is sent upstream, large ones into a temporary file.

A body is read first for three reasons: a client that disconnects halfway must not have opened a request upstream; a
slow client must not occupy an upstream connection; and a request to which upstream responds with 401 is retried.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from typing import IO, Protocol

from ocm_wsgi.errors import BodyTooLarge, BodyTruncated, NoRoomForBody

#: Up to this size a body stays in memory; a larger one goes to an unnamed temporary file.
MEMORY_LIMIT_BYTES = 1024 * 1024
_BLOCK_SIZE = 64 * 1024


class Input(Protocol):
    """``wsgi.input`` (PEP 3333)."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end."""


class Body:
    """A complete request body that can be sent more than once.

    :ivar length: in bytes.
    """

    def __init__(self, content: IO[bytes], length: int) -> None:
        self._content = content
        self.length = length

    def rewound(self) -> IO[bytes]:
        """Return the content, positioned at its start. For one reader at a time."""
        self._content.seek(0)
        return self._content

    def blocks(self) -> Iterator[bytes]:
        """Return the content in blocks, from its start."""
        content = self.rewound()
        return iter(lambda: content.read(_BLOCK_SIZE), b"")

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *failure: object) -> None:
        """Free the memory or the temporary file."""
        self._content.close()


def limit_arrival(stream: Input, seconds: float) -> None:
    """Require that what is read from a request's input arrives within this time, if the server can enforce it."""
    arrive_within = getattr(stream, "arrive_within", None)
    if arrive_within is not None:
        arrive_within(seconds)


def read_body(stream: Input, *, announced: int | None, limit: int) -> Body:
    """Read a request body to its end.

    :param announced: its ``Content-Length``, or ``None`` for a chunked body.
    :param limit: size of the largest body that is accepted, in bytes.
    :raises BodyTooLarge: the body is larger; if that was announced, nothing is read.
    :raises BodyTruncated: the client disconnected before the end.
    :raises NoRoomForBody: the disk is full.
    """
    if announced is not None and announced > limit:
        raise _too_large(limit)
    content: IO[bytes] = (
        io.BytesIO()
        if announced is not None and announced <= MEMORY_LIMIT_BYTES
        else tempfile.SpooledTemporaryFile(MEMORY_LIMIT_BYTES)  # noqa: SIM115 - Body closes it
    )
    try:
        length = _copy(stream, content, announced=announced, limit=limit)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk is reported once more
            content.close()
        raise
    return Body(content, length)


def _copy(stream: Input, content: IO[bytes], *, announced: int | None, limit: int) -> int:
    length = 0
    while announced is None or length < announced:
        size = _BLOCK_SIZE if announced is None else min(_BLOCK_SIZE, announced - length)
        try:
            block = stream.read(size)
        except OSError as exc:  # a broken connection; gunicorn's errors about chunks are OSErrors too
            raise _truncated() from exc
        if not block:
            break
        length += len(block)
        if length > limit:
            raise _too_large(limit)
        _store(content, block)
    if announced is not None and length < announced:
        raise _truncated()
    _store(content, b"", is_last=True)
    return length


def _store(content: IO[bytes], block: bytes, *, is_last: bool = False) -> None:
    try:
        content.write(block)
        if is_last:
            content.flush()
    except OSError as exc:
        message = "This service has no room on its disk for a request body of this size; try again later."
        raise NoRoomForBody(message, detail=str(exc)) from exc


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the {limit / 2**20:g} MiB that this service accepts.")


def _truncated() -> BodyTruncated:
    return BodyTruncated("The request body ended before its announced end.")
