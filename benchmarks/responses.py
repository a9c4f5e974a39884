"""Responses received by a client, compared with what upstream sent. Fed with bytes split anywhere; no I/O."""

from __future__ import annotations

import re
from typing import Protocol

from benchmarks import wire

_HEAD_END = b"\r\n\r\n"
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)
# Of an error response: enough to identify it.
_SHOWN_BYTES = 160


class Times(Protocol):
    """Collects times in nanoseconds, as an array does."""

    def append(self, value: int, /) -> None: ...


class Damaged(Exception):
    """A response that differs from what upstream sent; the message says how."""


class Head:
    """The head of a response.

    :param status: the expected status.
    """

    def __init__(self, status: int = 200) -> None:
        self._received = b""
        self._start = b"HTTP/1.1 %d " % status

    def feed(self, received: bytes) -> tuple[bytes, bytes] | None:
        """Return the head and the bytes after it, or ``None`` until it is complete.

        :raises Damaged: another status.
        """
        self._received += received
        head, separator, rest = self._received.partition(_HEAD_END)
        if not separator:
            return None
        if not head.startswith(self._start):
            status_line = head.split(b"\r\n", 1)[0]
            raise Damaged(f"{status_line.decode(errors='replace')} {rest[:_SHOWN_BYTES].decode(errors='replace')}")
        return head + b"\r\n", rest


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self._received = b""
        self.has_ended = False

    def feed(self, received: bytes) -> bytes:
        """Return the content of all chunks completed now.

        :raises Damaged: the chunking is malformed.
        """
        self._received += received
        content = []
        while not self.has_ended and (chunk := self._next_chunk()) is not None:
            content.append(chunk)
            self.has_ended = not chunk
        return b"".join(content)

    def _next_chunk(self) -> bytes | None:
        start = self._received.find(b"\r\n") + 2
        if start < 2:
            return None
        try:
            end = start + int(self._received[: start - 2], 16)
        except ValueError:
            raise Damaged("a chunk without a size") from None
        if len(self._received) < end + 2:
            return None
        chunk, self._received = self._received[start:end], self._received[end + 2 :]
        return chunk


class Events:
    """The events of a turn and their terminal one.

    :param expected: the number of events before the terminal one.
    :ivar count: the number of events received.
    """

    def __init__(self, format_: wire.Format, expected: int, latencies: Times) -> None:
        self.count = 0
        self._format = format_
        self._size = format_.event_bytes
        self._expected = expected
        self._latencies = latencies
        self._received = b""

    @property
    def has_ended(self) -> bool:
        return self._received == self._format.completed

    def feed(self, received: bytes, now_ns: int) -> None:
        """Process bytes received at ``now_ns``.

        :raises Damaged: they differ from what upstream sent.
        """
        self._received += received
        while self.count < self._expected and len(self._received) >= self._size:
            self._take(self._received[: self._size], now_ns)
            self._received = self._received[self._size :]
        if self.count == self._expected and not self._format.completed.startswith(self._received):
            raise Damaged("a terminal event that differs from the one sent")

    def _take(self, event: bytes, now_ns: int) -> None:
        try:
            sent_ns = self._format.sent_ns(event)
        except ValueError:
            raise Damaged("an event without its time") from None
        if event != self._format.event(self.count, sent_ns):
            raise Damaged("an event that differs from the one sent")
        self.count += 1
        self._latencies.append(now_ns - sent_ns)


class StreamedResponse:
    """A response of events and a terminal one, over SSE.

    :ivar events: the events received.
    :ivar has_begun: whether a head with status 200 has been received.
    :ivar closes: whether the server closes the connection afterwards.
    """

    def __init__(self, events: int, latencies: Times) -> None:
        self.closes = False
        self.events = Events(wire.SSE, events, latencies)
        self._head = Head()
        self._body: ChunkedBody | None = None

    @property
    def has_begun(self) -> bool:
        return self._body is not None

    def feed(self, received: bytes, now_ns: int) -> bool:
        """Process bytes received at ``now_ns``; return whether this was the end.

        :raises Damaged: they differ from what upstream sent.
        """
        if self._body is None:
            if (found := self._head.feed(received)) is None:
                return False
            head, received = found
            if not _CHUNKED.search(head):
                raise Damaged("a stream that is not chunked")
            self._body = ChunkedBody()
            self.closes = _CLOSE.search(head) is not None
        self.events.feed(self._body.feed(received), now_ns)
        if self._body.has_ended and not self.events.has_ended:
            raise Damaged("a stream that ends without its terminal event")
        return self._body.has_ended
