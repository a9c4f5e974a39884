"""Responses as they arrive at a client, checked against what upstream sent. Fed octets in any split; no I/O."""

from __future__ import annotations

import re
from array import array

from benchmarks import wire

_HEAD_END = b"\r\n\r\n"
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)
# Of a response that is an error: enough to see which.
_SHOWN_BYTES = 160


class Damaged(Exception):
    """A response that is not what upstream sent. Says in which way."""


class Head:
    """The head of a response.

    :param status: that it has to have.
    """

    def __init__(self, status: int = 200) -> None:
        self._octets = b""
        self._start = b"HTTP/1.1 %d " % status

    def feed(self, octets: bytes) -> tuple[bytes, bytes] | None:
        """Return the head and what came behind it, or ``None`` until it is there.

        :raises Damaged: another status.
        """
        self._octets += octets
        head, separator, rest = self._octets.partition(_HEAD_END)
        if not separator:
            return None
        if not head.startswith(self._start):
            status_line = head.split(b"\r\n", 1)[0]
            raise Damaged(f"{status_line.decode(errors='replace')} {rest[:_SHOWN_BYTES].decode(errors='replace')}")
        return head + b"\r\n", rest


class ChunkedBody:
    """A body in chunked coding (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self._octets = b""
        self.has_ended = False

    def feed(self, octets: bytes) -> bytes:
        """Return the content of the chunks that are now complete.

        :raises Damaged: this is no chunked coding.
        """
        self._octets += octets
        content = []
        while not self.has_ended and (chunk := self._next_chunk()) is not None:
            content.append(chunk)
            self.has_ended = not chunk
        return b"".join(content)

    def _next_chunk(self) -> bytes | None:
        start = self._octets.find(b"\r\n") + 2
        if start < 2:
            return None
        try:
            end = start + int(self._octets[: start - 2], 16)
        except ValueError:
            raise Damaged("a chunk without a size") from None
        if len(self._octets) < end + 2:
            return None
        chunk, self._octets = self._octets[start:end], self._octets[end + 2 :]
        return chunk


class Events:
    """The events of a turn and their terminal one.

    :param expected: how many there are before the terminal one.
    :ivar count: how many have arrived.
    """

    def __init__(self, format_: wire.Format, expected: int, latencies: array[int]) -> None:
        self.count = 0
        self._format = format_
        self._size = format_.event_bytes
        self._expected = expected
        self._latencies = latencies
        self._octets = b""

    @property
    def has_ended(self) -> bool:
        return self._octets == self._format.completed

    def feed(self, octets: bytes, now_ns: int) -> None:
        """Take what arrived at ``now_ns``.

        :raises Damaged: it is not what upstream sent.
        """
        self._octets += octets
        while self.count < self._expected and len(self._octets) >= self._size:
            self._take(self._octets[: self._size], now_ns)
            self._octets = self._octets[self._size :]
        if self.count == self._expected and not self._format.completed.startswith(self._octets):
            raise Damaged("a terminal event that is not as it was sent")

    def _take(self, event: bytes, now_ns: int) -> None:
        try:
            sent_ns = self._format.sent_ns(event)
        except ValueError:
            raise Damaged("an event without its time") from None
        if event != self._format.event(self.count, sent_ns):
            raise Damaged("an event that is not as it was sent")
        self.count += 1
        self._latencies.append(now_ns - sent_ns)


class StreamedResponse:
    """A response of so many events and a terminal one, over SSE.

    :ivar events: those that have arrived.
    :ivar has_begun: it is a 200, whose head has arrived.
    """

    def __init__(self, events: int, latencies: array[int]) -> None:
        self.events = Events(wire.SSE, events, latencies)
        self._head = Head()
        self._body: ChunkedBody | None = None

    @property
    def has_begun(self) -> bool:
        return self._body is not None

    def feed(self, octets: bytes, now_ns: int) -> bool:
        """Take what arrived at ``now_ns``; return whether that was the end.

        :raises Damaged: it is not what upstream sent.
        """
        if self._body is None:
            if (found := self._head.feed(octets)) is None:
                return False
            head, octets = found
            if not _CHUNKED.search(head):
                raise Damaged("a stream that is not chunked")
            self._body = ChunkedBody()
        self.events.feed(self._body.feed(octets), now_ns)
        if self._body.has_ended and not self.events.has_ended:
            raise Damaged("a stream that ends without its terminal event")
        return self._body.has_ended


class TurnResponse:
    """A small turn, in one piece.

    :ivar closes: its server takes no other request over this connection.
    """

    def __init__(self) -> None:
        self.closes = False
        self._head = Head()
        self._length: int | None = None
        self._content = b""

    def feed(self, octets: bytes) -> bool:
        """Take what arrived; return whether that was the end.

        :raises Damaged: it is not what upstream sent.
        """
        if self._length is None:
            if (found := self._head.feed(octets)) is None:
                return False
            head, octets = found
            length = _CONTENT_LENGTH.search(head)
            if length is None:
                raise Damaged("a turn without Content-Length")
            self._length = int(length[1])
            self.closes = _CLOSE.search(head) is not None
        self._content += octets
        if len(self._content) < self._length:
            return False
        self._check(self._content)
        return True

    def _check(self, content: bytes) -> None:
        if content != wire.TURN:
            raise Damaged("a turn that is not as it was sent")
