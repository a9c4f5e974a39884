"""Reading requests: the head byte by byte as sent, and the body as the plan requires."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from ocm_wsgi.simulator.connection import Connection
from ocm_wsgi.simulator.plans import Plan

#: The maximum length of a line of the head, in bytes.
MAX_LINE = 1024 * 1024
READ_SIZE = 64 * 1024


class BadMessage(Exception):
    """A malformed request, which an HTTP server would reject. The message says why."""


@dataclass(frozen=True)
class Head:
    """A request's head.

    :ivar target: the exact bytes, decoded as latin-1.
    :ivar fields: as sent, preserving order, case and duplicates.
    """

    method: str
    target: str
    http_version: str
    fields: tuple[tuple[str, str], ...]

    def field(self, name: str) -> str | None:
        """Return the first value of a field, ignoring case, or ``None``."""
        return next(iter(self.values(name)), None)

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each.lower() == name.lower()]

    def has_option(self, name: str, option: str) -> bool:
        """Return whether a field with a comma-separated list contains this option."""
        options = ",".join(self.values(name)).lower().split(",")
        return option.lower() in (each.strip() for each in options)

    @property
    def is_upgrade(self) -> bool:
        """Whether this opens a WebSocket (RFC 6455 section 4.1)."""
        return self.has_option("Connection", "upgrade") and self.has_option("Upgrade", "websocket")

    @property
    def keeps_alive(self) -> bool:
        return self.http_version == "HTTP/1.1" and not self.has_option("Connection", "close")


@dataclass(frozen=True)
class Body:
    """The part of a request's body that was read.

    :ivar is_complete: ``False`` if the plan left some of it unread.
    """

    content: bytes
    is_complete: bool = True

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def read_head(reader: BinaryIO) -> Head | None:
    """Read a request's head, or return ``None`` if the connection ended before one.

    :raises BadMessage: the head is not valid HTTP/1.
    """
    try:
        line = _line(reader)
        if line is None:
            return None
        method, target, http_version = line.split(" ")
    except ValueError as exc:
        raise BadMessage("malformed request line") from exc
    if http_version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadMessage("unknown protocol version")
    fields: list[tuple[str, str]] = []
    while line := _line(reader):
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadMessage("malformed field line")
        fields.append((name, value.strip(" \t")))
    if line is None:
        raise BadMessage("the head ended early")
    head = Head(method, target, http_version, tuple(fields))
    _check_framing(head)
    return head


def _line(reader: BinaryIO) -> str | None:
    line = reader.readline(MAX_LINE)
    if not line:
        return None
    if not line.endswith(b"\r\n"):
        raise BadMessage("a line without CRLF")
    return line[:-2].decode("latin-1")


def _check_framing(head: Head) -> None:
    """Reject ambiguous framing, which enables request smuggling (RFC 9112 sections 3.2 and 6.3)."""
    lengths, codings = head.values("Content-Length"), head.values("Transfer-Encoding")
    if lengths and codings:
        raise BadMessage("both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or not all(each.isascii() and each.isdigit() for each in lengths):
        raise BadMessage("bad Content-Length")
    if codings and [each.lower() for each in codings] != ["chunked"]:
        raise BadMessage("bad Transfer-Encoding")
    if head.http_version == "HTTP/1.1" and len(head.values("Host")) != 1:
        raise BadMessage("not exactly one Host")


def read_body(connection: Connection, head: Head, plan: Plan) -> Body:
    """Read the body announced by the head, as far as the plan allows.

    :raises BadMessage: the body ended early or its chunking is malformed.
    :raises ClientGone: the client disconnected while the plan delayed reading.
    """
    chunked = bool(head.values("Transfer-Encoding"))
    length = int(head.field("Content-Length") or 0)
    limit = 0 if plan.refuse_body else plan.read_only_n_bytes
    if limit is not None and (chunked or length > limit):
        return Body(connection.reader.read(limit), is_complete=False)
    if (chunked or length) and head.has_option("Expect", "100-continue"):
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not chunked:
        return Body(_exactly(connection, length, plan))
    pieces = []
    while size := _chunk_size(connection.reader):
        pieces.append(_exactly(connection, size, plan))
        if connection.reader.read(2) != b"\r\n":
            raise BadMessage("a chunk without its end")
    while _line(connection.reader):
        pass  # trailers
    return Body(b"".join(pieces))


def _chunk_size(reader: BinaryIO) -> int:
    line = _line(reader)
    try:
        return int((line or "").partition(";")[0], 16)
    except ValueError as exc:
        raise BadMessage("bad chunk size") from exc


def _exactly(connection: Connection, length: int, plan: Plan) -> bytes:
    if not plan.slow_read:
        pieces = [connection.reader.read(length)]
    else:
        pieces = []
        missing = length
        while missing:
            connection.wait(lambda: False, timeout=plan.slow_read)
            pieces.append(connection.reader.read(min(missing, READ_SIZE)))
            if not pieces[-1]:
                break
            missing -= len(pieces[-1])
    content = b"".join(pieces)
    if len(content) < length:
        raise BadMessage("the body ended early")
    return content


def decoded(content: bytes, encoding: str | None) -> bytes:
    """Decode a request's ``Content-Encoding``.

    :raises ValueError: the encoding is unknown, or the content is not valid in it.
    """
    try:
        if encoding in (None, "", "identity"):
            return content
        if encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
                return bytes(reader.read())
        if encoding in ("gzip", "deflate"):
            return zlib.decompress(content, 47)  # 47: either of the two, by its header
    except (zlib.error, zstandard.ZstdError) as exc:
        raise ValueError(f"the body is not {encoding}") from exc
    raise ValueError(f"unknown encoding {encoding}")
