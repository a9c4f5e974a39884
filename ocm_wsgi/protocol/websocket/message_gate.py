"""What a client says over a WebSocket: each message waits until somebody has decided about it. Pure; no I/O.

A message of a client may ask for a turn, so none goes on before it is whole and has been looked at; a refused one is
left out whole. What passes is passed octet for octet. Control frames pass at once: one that stands between the
fragments of a message overtakes the fragments before it, which RFC 6455 section 5.4 makes good sense of.

This is a lock and not only an observer, so it fails closed: what cannot be understood, and what follows a Close
frame, goes nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.websocket.creates import ResponseCreate, response_create
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters, Inflater
from ocm_wsgi.protocol.websocket.frames import CLOSE, MESSAGE_TOO_BIG, PROTOCOL_ERROR, FrameParser, FrameSlice, unmask

#: The longest message taken, in octets as they come: OpenAI takes no longer ones.
MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
#: What a fragment counts for beyond its octets, so that empty ones are not free.
_FRAGMENT_BYTES = 256
#: So much of a message is unmasked at once.
_BLOCK_BYTES = 64 * 1024
#: A message is decompressed no further than this.
_DECODED_LIMIT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Violation:
    """The client broke the protocol, or its message is too long. Nothing more of it goes on.

    :ivar close_code: for the Close frame that it should get.
    :ivar reason: for people; names nothing that the client sent.
    """

    close_code: int
    reason: str


@dataclass
class _Payload:
    """Where the payload of one frame lies in the held octets."""

    start: int
    stop: int
    mask: bytes


class HeldMessage:
    """A whole message of a client that nobody has decided about yet.

    :ivar octets: its frames as they came.
    :ivar shares_context: whether later messages cannot be decompressed by who has not seen this one.
    """

    def __init__(self, octets: bytes, payloads: list[_Payload], inflater: Inflater | None) -> None:
        self.octets = octets
        self.shares_context = inflater is not None and inflater.context_takeover
        self._payloads = payloads
        self._inflater = inflater

    def read(self) -> ResponseCreate | None:
        """Say what it asks for; ``None`` when that is no turn.

        To be called once, before the gate is told the decision. Takes some 20 ms for 5 MiB and may be called on
        another thread meanwhile.
        """
        return response_create(self._blocks())

    def _blocks(self) -> Iterator[bytes]:
        inflater = self._inflater
        if inflater is None:
            yield from self._payload()
            return
        length = 0
        for block in self._payload():
            for piece in inflater.feed(block, is_last=False):
                length += len(piece)
                if length > _DECODED_LIMIT_BYTES:
                    inflater.skip()
                    raise DecodingError("A message is too large to read.")
                yield piece
        yield from inflater.feed(b"", is_last=True)

    def _payload(self) -> Iterator[bytes]:
        for payload in self._payloads:
            for start in range(payload.start, payload.stop, _BLOCK_BYTES):
                block = self.octets[start : min(payload.stop, start + _BLOCK_BYTES)]
                yield unmask(block, payload.mask, start - payload.start)


class MessageGate:
    """Holds back each message of a client until it is decided about.

    :param deflate: what was negotiated, or ``None``.
    :param limit: the longest message, in octets as they come; so much can be held.
    :ivar violation: what the client did that nothing goes on for any more, or ``None``.
    :ivar is_closed: whether nothing goes on any more because of a Close frame, or of a message that was left out.
    """

    def __init__(self, deflate: DeflateParameters | None, *, limit: int = MESSAGE_LIMIT_BYTES) -> None:
        self.violation: Violation | None = None
        self._frames = FrameParser(masked=True, compressible=deflate is not None)
        self._inflater = deflate.client_inflater() if deflate else None
        self._limit = limit
        self._partial_head = b""
        self._octets = bytearray()
        self._payloads: list[_Payload] = []
        self._is_compressed = False
        self.is_closed = False
        self._asked: HeldMessage | None = None
        self._later = b""

    def feed(self, data: bytes) -> list[bytes | HeldMessage]:
        """Return what may go upstream now, in order. A message, if any, comes last.

        After a message nothing goes on before ``forward`` or ``drop``. What is fed until then waits here, so the
        client should not be read from.
        """
        if self._asked is not None:
            self._later += data
            return []
        return [] if self.violation or self.is_closed else self._advance(data)

    def _advance(self, data: bytes) -> list[bytes | HeldMessage]:
        passing: list[bytes | HeldMessage] = []
        at = 0
        for frame_slice in self._frames.feed(data, one_message=True):
            at = frame_slice.stop
            self._take(data, frame_slice, passing)
            if frame_slice.opcode == CLOSE and frame_slice.is_last:
                self.is_closed = True
                return passing
        if passing and isinstance(passing[-1], HeldMessage):
            self._asked = passing[-1]
            self._later = data[at:]
            return passing
        self._partial_head += data[at:]
        if self._frames.violation is not None:
            self._stop(PROTOCOL_ERROR, self._frames.violation)
        elif len(self._octets) + _FRAGMENT_BYTES * len(self._payloads) > self._limit + _FRAGMENT_BYTES:
            self._stop(MESSAGE_TOO_BIG, "the message is too long")
        return passing

    def forward(self) -> list[bytes | HeldMessage]:
        """The message may go on. Return what may go upstream now."""
        asked = self._decided()
        return [asked.octets, *self._go_on()]

    def drop(self) -> list[bytes | HeldMessage]:
        """The message must not go on. Return what may go upstream now.

        That is nothing for ever where later messages could not be understood without it.
        """
        if self._decided().shares_context:
            self.is_closed = True
        return self._go_on()

    def _decided(self) -> HeldMessage:
        asked, self._asked = self._asked, None
        if asked is None:
            raise RuntimeError("no message waits for a decision")
        return asked

    def _go_on(self) -> list[bytes | HeldMessage]:
        later, self._later = self._later, b""
        return self.feed(later)

    def _take(self, data: bytes, frame_slice: FrameSlice, passing: list[bytes | HeldMessage]) -> None:
        octets = data[frame_slice.start : frame_slice.stop]
        if not frame_slice.position and not frame_slice.start:
            octets, self._partial_head = self._partial_head + octets, b""
        if frame_slice.is_control:
            passing.append(octets)
            return
        if not self._payloads:
            self._is_compressed = frame_slice.is_compressed
        size = frame_slice.stop - frame_slice.payload
        self._octets += octets
        if frame_slice.position:
            self._payloads[-1].stop += size
        else:
            self._payloads.append(_Payload(len(self._octets) - size, len(self._octets), frame_slice.mask))
        if frame_slice.ends_message:
            inflater = self._inflater if self._is_compressed else None
            passing.append(HeldMessage(bytes(self._octets), self._payloads, inflater))
            self._octets, self._payloads = bytearray(), []

    def _stop(self, close_code: int, reason: str) -> None:
        self.violation = Violation(close_code, reason)
        self._octets, self._payloads = bytearray(), []
