"""Request bodies: read whole before anything is sent upstream, and never held in memory whole.

A body is taken in first for three reasons: a client that stops half-way must not have opened a request upstream; a
slow client must not hold an upstream connection; and a request that upstream answers 401 is sent once more.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from typing import IO, Protocol

from ocm_wsgi.errors import BodyTooLarge, BodyTruncated

#: Up to this many octets stay in memory; the rest goes to an unnamed temporary file.
MEMORY_LIMIT_BYTES = 1024 * 1024
_BLOCK_SIZE = 64 * 1024


class Input(Protocol):
    """What a WSGI server gives to read a body from (PEP 3333)."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` octets; fewer only at the end."""


class Body:
    """A complete request body that can be sent more than once.

    :ivar length: in octets.
    """

    def __init__(self, content: IO[bytes], length: int) -> None:
        self._content = content
        self.length = length

    def rewound(self) -> IO[bytes]:
        """The content, standing at its beginning. For one reader at a time."""
        self._content.seek(0)
        return self._content

    def blocks(self) -> Iterator[bytes]:
        """The content in blocks, from its beginning."""
        content = self.rewound()
        return iter(lambda: content.read(_BLOCK_SIZE), b"")

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *failure: object) -> None:
        """Give the memory or the temporary file back."""
        self._content.close()


def read_body(stream: Input, *, announced: int | None, limit: int) -> Body:
    """Read a request body to its end.

    :param announced: its ``Content-Length``, or ``None`` for a chunked body.
    :param limit: the largest body that is taken, in octets.
    :raises BodyTooLarge: it is larger; nothing is read when that was announced.
    :raises BodyTruncated: the client stopped before its end.
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
        content.close()
        raise
    return Body(content, length)


def _copy(stream: Input, content: IO[bytes], *, announced: int | None, limit: int) -> int:
    length = 0
    while announced is None or length < announced:
        wanted = _BLOCK_SIZE if announced is None else min(_BLOCK_SIZE, announced - length)
        try:
            block = stream.read(wanted)
        except OSError as exc:  # a connection that broke; gunicorn's own errors about chunks are OSErrors too
            raise _truncated() from exc
        if not block:
            break
        length += len(block)
        if length > limit:
            raise _too_large(limit)
        content.write(block)
    if announced is not None and length < announced:
        raise _truncated()
    return length


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the {limit / 2**20:g} MiB that this service takes.")


def _truncated() -> BodyTruncated:
    return BodyTruncated("The request body ended before its announced end.")
