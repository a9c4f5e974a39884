"""What a server says over a WebSocket, observed in a copy: the few messages that matter. Pure; no I/O.

Most messages are pieces of text on their way to the client. What names such a type in its first words is passed over:
uncompressed, its payload is not touched at all; compressed, it goes through the decompressor only where later
messages may refer to it, and comes to nothing.

``feed`` says where in the read a message starts and stops, for "recorded before seen": what stands before ``start``
may be sent at once, what comes from there on must wait until the record of a turn that ends here is safe. Of a
message in several reads the earlier ones go out when they come: it is no message before its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer
from ocm_wsgi.protocol.responses.outcome import TERMINAL_TYPES
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters, Inflater
from ocm_wsgi.protocol.websocket.frames import CLOSE, TEXT, FrameParser, FrameSlice, close_of

#: The types that mean something to us.
TYPES_OF_INTEREST = frozenset({*TERMINAL_TYPES, "error", "codex.rate_limits"})

#: A length of two octets of its own says at least this, with the frame's head.
_SHORTEST_EXTENDED = 126 + 4

#: Within so many octets a message must name its type, if that is to spare us keeping it.
_HEAD_BYTES = 256

_NAMING = rb'\s*\{\s*"type"\s*:\s*"'
_FIRST_TYPE = re.compile(_NAMING + rb'([^"\\]*)"')
_TYPES_OF_INTEREST = frozenset(type_.encode() for type_ in TYPES_OF_INTEREST)

#: The start of an uncompressed text message in one frame, shorter than 64 KiB, that names a type of no interest.
_OTHER = re.compile(
    rb"\x81(?:[\x00-\x7d]|\x7e(..))"
    + _NAMING
    + rb"(?!(?:%s)\")" % b"|".join(map(re.escape, _TYPES_OF_INTEREST))
    + rb'[^"\\]*"',
    re.DOTALL,
)


@dataclass(frozen=True)
class Message:
    """A text message that may matter, whole.

    :ivar kept: its octets, decompressed; only the tail of one that is too large.
    :ivar type: that its first words name, or ``""`` when they do not.
    :ivar start: where in the read it starts; 0 when it started in an earlier one.
    :ivar stop: where in the read it ends.
    """

    kept: BoundedBuffer
    type: str
    start: int
    stop: int


@dataclass(frozen=True)
class Closing:
    """A Close frame.

    :ivar code: 1005 where the frame gave none.
    :ivar start: where in the read it starts.
    """

    code: int
    reason: str
    start: int


class MessageObserver:
    """Find what matters in what a server sends.

    :param deflate: what was negotiated, or ``None``.
    :param limit: a message is kept up to so many octets.
    """

    def __init__(self, deflate: DeflateParameters | None, *, limit: int = BUFFER_LIMIT_BYTES) -> None:
        self._frames = FrameParser(masked=False, compressible=deflate is not None)
        self._inflater = deflate.server_inflater() if deflate else None
        self._limit = limit
        self._open: _OpenMessage | None = None
        self._close_payload = b""
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why nothing is found any more, or ``None`` while all is well."""
        return self._failure or self._frames.violation

    @property
    def is_between_messages(self) -> bool:
        """Whether a frame of our own can be sent behind what was fed so far."""
        return self._frames.is_between_messages

    def feed(self, data: bytes) -> list[Message | Closing]:
        """Return what matters and is complete with these octets, in order. Never raises."""
        found: list[Message | Closing] = []
        start = _others_end(data) if self._frames.is_between_messages else 0
        if start == len(data):
            return found
        for frame_slice in self._frames.feed(data, start=start):
            event = self._control(data, frame_slice) if frame_slice.is_control else self._data(data, frame_slice)
            if event is not None:
                found.append(event)
        if self._open is not None:
            self._open.start = 0
        return found

    def _control(self, data: bytes, frame_slice: FrameSlice) -> Closing | None:
        if frame_slice.opcode != CLOSE:
            return None
        self._close_payload += data[frame_slice.payload : frame_slice.stop]
        if not frame_slice.is_last:
            return None
        return Closing(*close_of(self._close_payload), frame_slice.start)

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
        return _OpenMessage(inflater, frame_slice.start, self._limit, is_text=frame_slice.opcode == TEXT)


class _OpenMessage:
    """A data message that has begun.

    :ivar start: as in :class:`Message`.
    """

    def __init__(self, inflater: Inflater | None, start: int, limit: int, *, is_text: bool) -> None:
        self.start = start
        self._inflater = inflater
        self._type = ""
        self._is_undecided = True
        # None when the message is passed over.
        self._kept = BoundedBuffer(limit) if is_text else None

    def add(self, data: bytes, frame_slice: FrameSlice) -> None:
        """Take what a read holds of the message.

        :raises DecodingError: it is not compressed as agreed.
        """
        inflater = self._inflater
        if self._kept is None and (inflater is None or not inflater.context_takeover):
            return
        payload = data[frame_slice.payload : frame_slice.stop]
        if inflater is None:
            self._keep(payload)
            return
        for piece in inflater.feed(payload, is_last=frame_slice.ends_message):
            self._keep(piece)
            if self._kept is None and not inflater.context_takeover:
                inflater.skip()
                break

    def ended(self, stop: int) -> Message | None:
        """The message, if it may matter, now that it is whole."""
        return None if self._kept is None else Message(self._kept, self._type, self.start, stop)

    def _keep(self, piece: bytes) -> None:
        if self._kept is None:
            return
        self._kept.append(piece)
        if self._is_undecided:
            self._decide(bytes(self._kept.octets[:_HEAD_BYTES]))
        elif self._kept.overflowed and not self._type:
            self._kept = None

    def _decide(self, head: bytes) -> None:
        named = _FIRST_TYPE.match(head)
        self._is_undecided = named is None and len(head) < _HEAD_BYTES
        if named is not None and named[1] in _TYPES_OF_INTEREST:
            self._type = named[1].decode()
        elif named is not None:
            self._kept = None


def _others_end(data: bytes) -> int:
    """Where the messages end that mean nothing to us and are whole: nearly always at the end of the read.

    What is doubtful is left to the parser.

    :param data: a read that begins with a frame.
    """
    at, size = 0, len(data)
    while at < size:
        start = _OTHER.match(data, at)
        if start is None:
            break
        extended = start[1]
        length = data[at + 1] + 2 if extended is None else int.from_bytes(extended, "big") + 4
        stop = at + length
        if stop > size or start.end() > stop or (extended is not None and length < _SHORTEST_EXTENDED):
            break
        at = stop
    return at
