"""WebSocket frames: found in a stream of octets that is fed in any split, and made. Pure; no I/O.

Frames are found where they lie and nothing is copied: who wants a payload takes it from the read by its offsets.

Source: RFC 6455 section 5; for RSV1, RFC 7692 section 6.
"""

from __future__ import annotations

from typing import NamedTuple

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA

#: Close codes (RFC 6455 section 7.4.1).
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
#: What a Close frame without a code is said to have. It never stands on the wire.
NO_STATUS = 1005

_FIN, _RSV1, _RSV_OTHERS, _OPCODE = 0x80, 0x40, 0x30, 0x0F

_IS_CONTROL = 0x08
_MASK_BIT, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_LONGEST_HEAD = 14
_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class FrameSlice(NamedTuple):
    """What one read holds of one frame. Offsets are into that read.

    :ivar first: the frame's first octet: FIN, RSV and opcode.
    :ivar start: where the frame starts; 0 when it started in an earlier read.
    :ivar payload: where the payload in this read starts.
    :ivar stop: where the payload in this read ends.
    :ivar position: octets of the payload that came in earlier reads.
    :ivar mask: the masking key, four octets, or ``b""``.
    :ivar is_last: whether the frame ends at ``stop``.
    """

    first: int
    start: int
    payload: int
    stop: int
    position: int
    mask: bytes
    is_last: bool

    @property
    def opcode(self) -> int:
        return self.first & _OPCODE

    @property
    def is_final(self) -> bool:
        """Whether the frame is the last one of its message."""
        return self.first >= _FIN

    @property
    def is_compressed(self) -> bool:
        """On the first frame of a message: whether the message is compressed."""
        return bool(self.first & _RSV1)

    @property
    def is_control(self) -> bool:
        return bool(self.first & _IS_CONTROL)

    @property
    def ends_message(self) -> bool:
        """Whether a data message ends at ``stop``."""
        return self.is_last and self.first >= _FIN and not self.first & _IS_CONTROL


class FrameError(ValueError):
    """The stream breaks RFC 6455; whatever follows cannot be understood."""


class FrameParser:
    """Find the frames in one direction of a WebSocket.

    :param masked: whether frames must be masked: those of a client must, those of a server must not be.
    :param compressible: whether permessage-deflate was negotiated.
    :ivar violation: what was wrong; ``None`` while nothing is. Once it is set nothing is found any more.
    :ivar is_between_messages: whether a frame of somebody else could be put in here without breaking a frame or a
        message apart.
    """

    def __init__(self, *, masked: bool, compressible: bool) -> None:
        self.violation: str | None = None
        self.is_between_messages = True
        self._masked = masked
        self._compressible = compressible
        self._partial_head = b""
        self._in_message = False
        # Of the frame that goes on in the next read.
        self._first = 0
        self._mask = b""
        self._position = 0
        self._left = 0

    def feed(self, data: bytes, *, start: int = 0, one_message: bool = False) -> list[FrameSlice]:
        """Return the slices of frames that lie in ``data``, in order.

        They cover all of it but for the incomplete head of a frame at its end, or what follows a violation.

        :param start: whole frames before it need not be found; 0 unless this is between messages.
        :param one_message: stop behind the end of a data message. The rest was not looked at; feed it again.
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
        """Go on with the frame that the last read left open."""
        taken = min(self._left, size)
        frame_slice = FrameSlice(self._first, 0, 0, taken, self._position, self._mask, taken == self._left)
        self._position += taken
        self._left -= taken
        return frame_slice

    def _head(self, data: bytes, at: int) -> tuple[int, int, bytes, int] | None:
        """Read a frame's head: first octet, payload length, mask, offset behind it. ``None`` when it is not whole.

        :raises FrameError: it is none.
        """
        earlier = len(self._partial_head)
        if earlier:
            data = self._partial_head + data[:_LONGEST_HEAD]
        head = self._whole_head(data, at)
        if head is None:
            self._partial_head = data[at:]
            return None
        self._partial_head = b""
        first, length, mask, behind = head
        if not first & _IS_CONTROL:
            self._in_message = first < _FIN
        return first, length, mask, behind - earlier

    def _whole_head(self, data: bytes, at: int) -> tuple[int, int, bytes, int] | None:
        size = len(data)
        first = data[at]
        self._check_first(first)
        if size - at < 2:
            return None
        second = data[at + 1]
        if (second >= _MASK_BIT) is not self._masked:
            raise FrameError("a client's frame is not masked, or a server's is")
        length, behind = second & _LENGTH, at + 2
        if length >= _LENGTH_16:
            if first & _IS_CONTROL:
                raise FrameError("a control frame is too long")
            behind += 2 if length == _LENGTH_16 else 8
            if size < behind:
                return None
            length = _extended_length(data, at + 2, behind)
        if not self._masked:
            return first, length, b"", behind
        mask = data[behind : behind + 4]
        return (first, length, mask, behind + 4) if len(mask) == 4 else None

    def _check_first(self, first: int) -> None:
        if first & _RSV_OTHERS or (first & _RSV1 and not (self._compressible and first & _OPCODE in (TEXT, BINARY))):
            raise FrameError("a reserved bit is set that nothing was negotiated for")
        if first & _OPCODE not in _OPCODES:
            raise FrameError("the opcode is reserved")
        if first & _IS_CONTROL:
            if first < _FIN:
                raise FrameError("a control frame is fragmented")
        elif (first & _OPCODE == CONTINUATION) is not self._in_message:
            raise FrameError("a message starts within another, or goes on where there is none")


def _extended_length(data: bytes, start: int, stop: int) -> int:
    length = int.from_bytes(data[start:stop], "big")
    is_long = stop - start == 8
    if length < (0x10000 if is_long else _LENGTH_16):
        raise FrameError("a length is not in its shortest form")
    if length >> 63:
        raise FrameError("a length is out of range")
    return length


def unmask(data: bytes, mask: bytes, position: int) -> bytes:
    """Undo the masking of a piece of a payload.

    :param mask: four octets, or ``b""`` for none.
    :param position: octets of the payload before this piece.

    Source: RFC 6455 section 5.3.
    """
    if not mask:
        return data
    size, turn = len(data), position % 4
    key = ((mask[turn:] + mask[:turn]) * (size // 4 + 1))[:size]
    # Python's integers are the fastest exclusive or of the standard library: about a gigabyte a second.
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def server_text(text: bytes) -> bytes:
    """A whole message as a server sends it: one unmasked, uncompressed frame.

    It is a legal one where compression was negotiated, too, and leaves the compression's state alone.
    """
    return _server_frame(TEXT, text)


def server_close(code: int, reason: str = "") -> bytes:
    """A Close frame as a server sends it.

    :param reason: at most 123 octets in UTF-8.
    """
    return _server_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def close_of(payload: bytes) -> tuple[int, str]:
    """The code and the reason that the payload of a Close frame gives."""
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
