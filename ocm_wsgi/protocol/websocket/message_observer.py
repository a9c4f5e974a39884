"""Observes a server's WebSocket messages, and finds the few that matter to us. Pure; no I/O.

Most messages carry pieces of text for the client. A message that names such a type at its beginning is skipped: if it
is uncompressed, its payload is not touched; if it is compressed, it goes through the decompressor only where later
messages may refer to it, and the result is discarded.

``feed`` returns where in the read a message starts and stops, for "recorded before seen": the octets before ``start``
may be sent immediately, those from there on must wait until the record of a turn that ends here is stored. If a message
spans several reads, the earlier ones are sent as they arrive, since a client ignores an incomplete message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer
from ocm_wsgi.protocol.responses.outcome import TERMINAL_TYPES, type_prefix_pattern
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters, Inflater
from ocm_wsgi.protocol.websocket.frames import CLOSE, TEXT, FrameParser, FrameSlice, close_of

# The smallest size of a frame with a two-octet extended payload length, head included.
_SHORTEST_EXTENDED = 126 + 4

# A message that names its type within this many octets is not buffered if the type does not matter.
_PREFIX_BYTES = 256

#: The event that begins a response.
CREATED_TYPE = "response.created"
#: The replies to a ``response.steer``.
STEER_TYPES = frozenset({"response.steer.accepted", "response.steer.pending", "response.steer.failed"})

# The types that matter to us.
_TYPES_OF_INTEREST = frozenset(
    type_.encode() for type_ in (*TERMINAL_TYPES, CREATED_TYPE, *STEER_TYPES, "error", "codex.rate_limits")
)
_TYPE_PREFIX = rb"\s*" + type_prefix_pattern()
_FIRST_TYPE = re.compile(_TYPE_PREFIX + rb'([^"\\]*)"')

# The start of an uncompressed text message in one frame, shorter than 64 KiB, whose type does not matter.
_IRRELEVANT = re.compile(
    rb"\x81(?:[\x00-\x7d]|\x7e(..))"
    + _TYPE_PREFIX
    + rb"(?!(?:%s)\")" % b"|".join(map(re.escape, _TYPES_OF_INTEREST))
    + rb'[^"\\]*"',
    re.DOTALL,
)


@dataclass(frozen=True)
class Message:
    """A complete text message that may matter.

    :ivar buffer: its octets, decompressed; only the tail if it is too large.
    :ivar type: the type that its beginning names, or ``""`` if it names none.
    :ivar start: where in the read it starts; 0 if it started in an earlier one.
    :ivar stop: where in the read it ends.
    :ivar is_whole: whether it started in this read.
    """

    buffer: BoundedBuffer
    type: str
    start: int
    stop: int
    is_whole: bool


@dataclass(frozen=True)
class Closing:
    """A Close frame.

    :ivar code: 1005 if the frame has none.
    """

    code: int


class MessageObserver:
    """Finds the messages that matter among those of a server.

    :param deflate: the negotiated compression, or ``None``.
    :param on_text: called with what compressed messages decompress to, as far as they are decompressed.
    :param limit: a message is buffered up to this many octets.
    """

    def __init__(
        self,
        deflate: DeflateParameters | None,
        on_text: Callable[[bytes], None] | None = None,
        *,
        limit: int = BUFFER_LIMIT_BYTES,
    ) -> None:
        self._frames = FrameParser(masked=False, compressible=deflate is not None)
        self._inflater = deflate.server_inflater() if deflate else None
        self._limit = limit
        self._on_text = on_text
        self._open: _OpenMessage | None = None
        self._close_payload = b""
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why no more messages can be found, or ``None``."""
        return self._failure or self._frames.violation

    @property
    def is_between_messages(self) -> bool:
        """Whether a frame of our own can be sent after the octets fed so far."""
        return self._frames.is_between_messages

    def feed(self, data: bytes) -> list[Message | Closing]:
        """Return the messages that matter and are complete with this read, in order. Never raises."""
        found: list[Message | Closing] = []
        start = _irrelevant_end(data) if self._frames.is_between_messages else 0
        if start == len(data):
            return found
        for frame_slice in self._frames.feed(data, start=start):
            event = self._control(data, frame_slice) if frame_slice.is_control else self._data(data, frame_slice)
            if event is not None:
                found.append(event)
        if self._open is not None:
            self._open.start, self._open.is_whole = 0, False
        return found

    def _control(self, data: bytes, frame_slice: FrameSlice) -> Closing | None:
        if frame_slice.opcode != CLOSE:
            return None
        self._close_payload += data[frame_slice.payload_start : frame_slice.stop]
        if not frame_slice.is_last:
            return None
        return Closing(close_of(self._close_payload)[0])

    def _data(self, data: bytes, frame_slice: FrameSlice) -> Message | None:
        if self._failure is not None:
            return None
        message = self._open
        if message is None:
            message = self._open = self._begin(frame_slice)
        try:
            message.add(data, frame_slice)
        except DecodingError as exc:
            self._failure, self._open = str(exc), None
            return None
        if not frame_slice.ends_message:
            return None
        self._open = None
        return message.ended(frame_slice.stop)

    def _begin(self, frame_slice: FrameSlice) -> _OpenMessage:
        inflater = self._inflater if frame_slice.is_compressed else None
        is_text = frame_slice.opcode == TEXT
        return _OpenMessage(inflater, frame_slice.start, self._limit, is_text=is_text, on_text=self._on_text)


class _OpenMessage:
    """A data message that is still incomplete.

    :ivar start: as in :class:`Message`.
    """

    def __init__(
        self,
        inflater: Inflater | None,
        start: int,
        limit: int,
        *,
        is_text: bool,
        on_text: Callable[[bytes], None] | None,
    ) -> None:
        self.start = start
        self.is_whole = True
        self._on_text = on_text
        self._inflater = inflater
        self._type = ""
        self._is_undecided = True
        # None if the message is skipped.
        self._buffer = BoundedBuffer(limit) if is_text else None

    def add(self, data: bytes, frame_slice: FrameSlice) -> None:
        """Add the part of the message that a read contains.

        :raises DecodingError: the message is not compressed as negotiated.
        """
        inflater = self._inflater
        if self._buffer is None and (inflater is None or not inflater.context_takeover):
            return
        payload = data[frame_slice.payload_start : frame_slice.stop]
        if inflater is None:
            self._append(payload)
            return
        for piece in inflater.feed(payload, is_last=frame_slice.ends_message):
            if self._on_text is not None:
                self._on_text(piece)
            self._append(piece)
            if self._buffer is None and not inflater.context_takeover:
                inflater.skip()
                break

    def ended(self, stop: int) -> Message | None:
        """Return the complete message, or ``None`` if it does not matter."""
        return None if self._buffer is None else Message(self._buffer, self._type, self.start, stop, self.is_whole)

    def _append(self, piece: bytes) -> None:
        if self._buffer is None:
            return
        self._buffer.append(piece)
        if self._is_undecided:
            self._decide(bytes(self._buffer.octets[:_PREFIX_BYTES]))
        elif self._buffer.overflowed and not self._type:
            self._buffer = None

    def _decide(self, head: bytes) -> None:
        found = _FIRST_TYPE.match(head)
        self._is_undecided = found is None and len(head) < _PREFIX_BYTES
        if found is not None and found[1] in _TYPES_OF_INTEREST:
            self._type = found[1].decode()
        elif found is not None:
            self._buffer = None


def _irrelevant_end(data: bytes) -> int:
    """Return where the complete messages that do not matter end: nearly always at the end of the read.

    A message that may matter is left to the parser.

    :param data: a read that begins with a frame.
    """
    at, size = 0, len(data)
    while at < size:
        start = _IRRELEVANT.match(data, at)
        if start is None:
            break
        extended = start[1]
        length = data[at + 1] + 2 if extended is None else int.from_bytes(extended, "big") + 4
        stop = at + length
        if stop > size or start.end() > stop or (extended is not None and length < _SHORTEST_EXTENDED):
            break
        at = stop
    return at
