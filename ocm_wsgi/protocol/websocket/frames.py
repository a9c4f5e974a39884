"""Parses WebSocket frames from a stream that is fed in any split, and makes frames. Pure; no I/O.

The parser copies nothing: it returns offsets, with which the caller can slice payloads out of the read.

Source: RFC 6455 section 5; for RSV1, RFC 7692 section 6.
"""

from __future__ import annotations

from typing import NamedTuple

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA

#: Close codes (RFC 6455 section 7.4.1, and the registry of section 11.7).
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
#: Reported for a Close frame without a code. Never sent.
NO_STATUS = 1005

_FIN, _RSV1, _RSV_OTHERS, _OPCODE = 0x80, 0x40, 0x30, 0x0F

_IS_CONTROL = 0x08
_MASK_BIT, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_LONGEST_HEAD = 14
_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class FrameSlice(NamedTuple):
    """The part of a frame that one read contains. Offsets are into that read.

    :ivar first_octet: of the frame, with FIN, RSV and opcode.
    :ivar start: where the frame starts; 0 if it started in an earlier read.
    :ivar payload_start: where the payload starts in this read.
    :ivar stop: where the payload ends in this read.
    :ivar payload_offset: octets of the payload in earlier reads.
    :ivar mask: the masking key of four octets, or ``b""``.
    :ivar is_last: whether the frame ends at ``stop``.
    """

    first_octet: int
    start: int
    payload_start: int
    stop: int
    payload_offset: int
    mask: bytes
    is_last: bool

    @property
    def opcode(self) -> int:
        return self.first_octet & _OPCODE

    @property
    def is_compressed(self) -> bool:
        """Whether the message is compressed; valid for the first frame of a message."""
        return bool(self.first_octet & _RSV1)

    @property
    def is_control(self) -> bool:
        return bool(self.first_octet & _IS_CONTROL)

    @property
    def ends_message(self) -> bool:
        """Whether a data message ends at ``stop``."""
        return self.is_last and self.first_octet >= _FIN and not self.first_octet & _IS_CONTROL


class FrameError(ValueError):
    """The stream violates RFC 6455; the octets that follow cannot be parsed."""


class FrameParser:
    """Parses the frames of one direction of a WebSocket.

    :param masked: whether frames must be masked: a client's must be, a server's must not.
    :param compressible: whether permessage-deflate was negotiated.
    :ivar violation: how the stream violated the protocol, or ``None``. Once it is set, no more frames are found.
    :ivar is_between_messages: whether another frame could be inserted here without splitting a frame or a message.
    """

    def __init__(self, *, masked: bool, compressible: bool) -> None:
        self.violation: str | None = None
        self.is_between_messages = True
        self._masked = masked
        self._compressible = compressible
        self._partial_head = b""
        self._in_message = False
        # Of the frame that continues in the next read.
        self._first = 0
        self._mask = b""
        self._position = 0
        self._left = 0

    def feed(self, data: bytes, *, start: int = 0, one_message: bool = False) -> list[FrameSlice]:
        """Return the slices of the frames in ``data``, in order.

        They cover all of ``data`` except an incomplete head of a frame at its end, or the octets after a violation.

        :param start: only complete frames come before it, which are not reported; 0 unless between messages.
        :param one_message: stop after the end of a data message. The rest was not parsed; feed it again.
        """
        if self.violation is not None:
            return []
        slices = self._slices(data, start, one_message=one_message)
        self.is_between_messages = not (self._left or self._partial_head or self._in_message or self.violation)
        return slices

    def _slices(self, data: bytes, start: int, *, one_message: bool) -> list[FrameSlice]:
        slices: list[FrameSlice] = []
        at, size = start, len(data)
        if self._left and size:
            slices.append(self._resume(size))
            at = slices[0].stop
            if one_message and slices[0].ends_message:
                return slices
        while at < size:
            try:
                head = self._head(data, at)
            except FrameError as exc:
                self.violation = str(exc)
                break
            if head is None:
                break
            first, length, mask, payload = head
            stop = payload + length
            if stop > size:
                slices.append(FrameSlice(first, at, payload, size, 0, mask, False))
                self._first, self._mask, self._position, self._left = first, mask, size - payload, stop - size
                break
            slices.append(FrameSlice(first, at, payload, stop, 0, mask, True))
            at = stop
            if one_message and slices[-1].ends_message:
                break
        return slices

    def _resume(self, size: int) -> FrameSlice:
        """Return the slice that continues the last read's incomplete frame."""
        taken = min(self._left, size)
        frame_slice = FrameSlice(self._first, 0, 0, taken, self._position, self._mask, taken == self._left)
        self._position += taken
        self._left -= taken
        return frame_slice

    def _head(self, data: bytes, at: int) -> tuple[int, int, bytes, int] | None:
        """Return a frame's first octet, payload length, mask and payload offset; ``None`` if its head is incomplete.

        :raises FrameError: the head is invalid.
        """
        earlier = len(self._partial_head)
        if earlier:
            data = self._partial_head + data[:_LONGEST_HEAD]
        head = self._complete_head(data, at)
        if head is None:
            self._partial_head = data[at:]
            return None
        self._partial_head = b""
        first, length, mask, after = head
        if not first & _IS_CONTROL:
            self._in_message = first < _FIN
        return first, length, mask, after - earlier

    def _complete_head(self, data: bytes, at: int) -> tuple[int, int, bytes, int] | None:
        size = len(data)
        first = data[at]
        self._check_first(first)
        if size - at < 2:
            return None
        second = data[at + 1]
        if (second >= _MASK_BIT) is not self._masked:
            raise FrameError("a client's frame is unmasked, or a server's frame is masked")
        length, after = second & _LENGTH, at + 2
        if length >= _LENGTH_16:
            if first & _IS_CONTROL:
                raise FrameError("a control frame is too long")
            after += 2 if length == _LENGTH_16 else 8
            if size < after:
                return None
            length = _extended_length(data, at + 2, after)
        if not self._masked:
            return first, length, b"", after
        mask = data[after : after + 4]
        return (first, length, mask, after + 4) if len(mask) == 4 else None

    def _check_first(self, first: int) -> None:
        if first & _RSV_OTHERS or (first & _RSV1 and not (self._compressible and first & _OPCODE in (TEXT, BINARY))):
            raise FrameError("a reserved bit is set that no negotiated extension uses")
        if first & _OPCODE not in _OPCODES:
            raise FrameError("the opcode is reserved")
        if first & _IS_CONTROL:
            if first < _FIN:
                raise FrameError("a control frame is fragmented")
        elif (first & _OPCODE == CONTINUATION) is not self._in_message:
            raise FrameError("a message starts within another, or a continuation frame has no message")


def _extended_length(data: bytes, start: int, stop: int) -> int:
    length = int.from_bytes(data[start:stop], "big")
    is_long = stop - start == 8
    if length < (0x10000 if is_long else _LENGTH_16):
        raise FrameError("a payload length is not in its shortest form")
    if length >> 63:
        raise FrameError("a payload length is out of range")
    return length


def unmask(data: bytes, mask: bytes, position: int) -> bytes:
    """Return a piece of a payload, unmasked. Masking is the same operation.

    :param mask: four octets, or ``b""`` for none.
    :param position: octets of the payload before this piece.

    Source: RFC 6455 section 5.3.
    """
    if not mask:
        return data
    size, shift = len(data), position % 4
    key = ((mask[shift:] + mask[:shift]) * (size // 4 + 1))[:size]
    # Python's integers are the fastest exclusive-or in the standard library: about a gigabyte per second.
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def server_text(text: bytes) -> bytes:
    """Return a complete message as a server sends it: one unmasked, uncompressed frame.

    It is also valid if compression was negotiated, and does not change the compression context.
    """
    return _server_frame(TEXT, text)


def server_close(code: int, reason: str = "") -> bytes:
    """Return a Close frame as a server sends it.

    :param reason: at most 123 octets in UTF-8.
    """
    return _server_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def close_of(payload: bytes) -> tuple[int, str]:
    """Return the code and the reason in the payload of a Close frame."""
    if len(payload) < 2:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


def _server_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < _LENGTH_16:
        length = bytes([size])
    elif size < 0x10000:
        length = bytes([_LENGTH_16]) + size.to_bytes(2, "big")
    else:
        length = bytes([_LENGTH_64]) + size.to_bytes(8, "big")
    return bytes([_FIN | opcode]) + length + payload
