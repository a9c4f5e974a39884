"""Holds back each WebSocket message of a client until it is admitted. Pure; no I/O.

A client's message may ask for a turn, so none is forwarded before it is complete and was inspected; a refused message
is dropped as a whole. Whatever is forwarded stays octet for octet the same. Control frames are forwarded immediately: a
control frame between the fragments of a message overtakes the earlier fragments, which RFC 6455 section 5.4 permits.

The gate enforces access and does not only observe, so it fails closed: octets that cannot be parsed, and those after a
Close frame, are not forwarded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ocm_wsgi.errors import MessageRejected
from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.references import FindReferences, no_references_in
from ocm_wsgi.protocol.responses.request import DECODED_LIMIT_BYTES
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage, read_message
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters, Inflater
from ocm_wsgi.protocol.websocket.frames import CLOSE, MESSAGE_TOO_BIG, PROTOCOL_ERROR, FrameParser, FrameSlice, unmask

#: The longest message accepted, in octets as received. OpenAI accepts no longer ones.
MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
# Each fragment counts as this many octets more, so that empty ones are not free.
_FRAGMENT_BYTES = 256
# How much of a message is unmasked at a time.
_BLOCK_BYTES = 64 * 1024

#: A message may decompress to this size in any case, in octets.
UNBOUNDED_RATIO_BYTES = 1024 * 1024
#: Beyond that, it may not decompress to more than this many times its size. Text reaches three to ten.
LARGEST_RATIO = 100
#: How long reading a message may take, in seconds of the thread's CPU time. 64 MiB of images take about 0.3.
READ_SECONDS = 2.0


@dataclass(frozen=True)
class Violation:
    """A client's violation of the protocol or of the length limit. Nothing more from the client is forwarded.

    :ivar close_code: for the Close frame that the client should receive.
    :ivar reason: human-readable; contains nothing that the client sent.
    """

    close_code: int
    reason: str


@dataclass
class _Payload:
    """The position of a frame's payload in the held octets."""

    start: int
    stop: int
    mask: bytes


class HeldMessage:
    """A client's complete message that waits for admission.

    :ivar octets: its frames as received.
    :ivar shares_context: whether a receiver needs this message to decompress later ones.
    :ivar message: what it asks for, once :meth:`read` has returned that.
    """

    def __init__(self, octets: bytes, payloads: list[_Payload], inflater: Inflater | None) -> None:
        self.octets = octets
        self.shares_context = inflater is not None and inflater.context_takeover
        self.message: ClientMessage | None = None
        self._payloads = payloads
        self._inflater = inflater

    def read(
        self,
        clock: Callable[[], float] = time.thread_time,
        *,
        find_references: FindReferences = no_references_in,
    ) -> ClientMessage:
        """Return what the message asks for.

        Call once, before the gate's ``forward`` or ``drop``; if it raises, ``drop``. Takes some 20 ms for 5 MiB;
        another thread may call it.

        :param clock: returns seconds, of which ``READ_SECONDS`` may pass.
        :param find_references: finds the stored objects that it refers to.
        :raises MessageRejected: the message cannot be read, or asks for something that is not known.
        """
        try:
            self.message = read_message(_in_time(self._blocks(), clock), find_references)
        except MessageRejected:
            if self._inflater is not None:
                self._inflater.skip()
            raise
        return self.message

    def _blocks(self) -> Iterator[bytes]:
        inflater = self._inflater
        if inflater is None:
            yield from self._payload()
            return
        limit = min(DECODED_LIMIT_BYTES, max(UNBOUNDED_RATIO_BYTES, LARGEST_RATIO * len(self.octets)))
        length = 0
        for block in self._payload():
            for piece in inflater.feed(block, is_last=False):
                length += len(piece)
                if length > limit:
                    raise DecodingError("It decompresses to too much.")
                yield piece
        yield from inflater.feed(b"", is_last=True)

    def _payload(self) -> Iterator[bytes]:
        for payload in self._payloads:
            for start in range(payload.start, payload.stop, _BLOCK_BYTES):
                block = self.octets[start : min(payload.stop, start + _BLOCK_BYTES)]
                yield unmask(block, payload.mask, start - payload.start)


def _in_time(blocks: Iterator[bytes], clock: Callable[[], float]) -> Iterator[bytes]:
    """Yield the blocks of a message for ``READ_SECONDS``.

    :raises DecodingError: there are more.
    """
    deadline = clock() + READ_SECONDS
    for block in blocks:
        yield block
        if clock() > deadline:
            raise DecodingError("Reading it takes too long.")


class MessageGate:
    """Holds back each message of a client until it is forwarded or dropped.

    :param deflate: the negotiated compression, or ``None``.
    :param limit: the longest message, in octets as received; this much may be held.
    :ivar violation: the client's violation after which nothing is forwarded, or ``None``.
    :ivar is_closed: whether nothing more is forwarded because of a Close frame, or of a message that was dropped.
    :ivar held: the message that waits for ``forward`` or ``drop``, or ``None``.
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
        self.held: HeldMessage | None = None
        self._buffered = b""

    @property
    def held_bytes(self) -> int:
        """How much memory unfinished and undecided messages take, in octets."""
        held = 0 if self.held is None else len(self.held.octets)
        return held + len(self._buffered) + len(self._octets) + _FRAGMENT_BYTES * len(self._payloads)

    def feed(self, data: bytes) -> list[bytes | HeldMessage]:
        """Return what to send upstream now, in order. A held message, if any, is the last item.

        After a held message nothing is returned until ``forward`` or ``drop``. Octets fed until then are buffered, so
        pause reading from the client.
        """
        if self.held is not None:
            self._buffered += data
            return []
        return [] if self.violation or self.is_closed else self._advance(data)

    def _advance(self, data: bytes) -> list[bytes | HeldMessage]:
        sendable: list[bytes | HeldMessage] = []
        at = 0
        for frame_slice in self._frames.feed(data, one_message=True):
            at = frame_slice.stop
            self._add(data, frame_slice, sendable)
            if frame_slice.opcode == CLOSE and frame_slice.is_last:
                self.is_closed = True
                return sendable
        if sendable and isinstance(sendable[-1], HeldMessage):
            self.held = sendable[-1]
            self._buffered = data[at:]
            return sendable
        self._partial_head += data[at:]
        if self._frames.violation is not None:
            self._stop(PROTOCOL_ERROR, self._frames.violation)
        elif len(self._octets) + _FRAGMENT_BYTES * len(self._payloads) > self._limit + _FRAGMENT_BYTES:
            self._stop(MESSAGE_TOO_BIG, "the message is too long")
        return sendable

    def forward(self) -> list[bytes | HeldMessage]:
        """Admit the held message. Return what to send upstream now."""
        held = self._take_held()
        return [held.octets, *self._resume()]

    def drop(self) -> list[bytes | HeldMessage]:
        """Discard the held message. Return what to send upstream now.

        Returns nothing from then on if later messages depend on the dropped one's compression context.
        """
        if self._take_held().shares_context:
            self.is_closed = True
        return self._resume()

    def _take_held(self) -> HeldMessage:
        held, self.held = self.held, None
        if held is None:
            raise RuntimeError("no message is held")
        return held

    def _resume(self) -> list[bytes | HeldMessage]:
        buffered, self._buffered = self._buffered, b""
        return self.feed(buffered)

    def _add(self, data: bytes, frame_slice: FrameSlice, sendable: list[bytes | HeldMessage]) -> None:
        octets = data[frame_slice.start : frame_slice.stop]
        if not frame_slice.payload_offset and not frame_slice.start:
            octets, self._partial_head = self._partial_head + octets, b""
        if frame_slice.is_control:
            sendable.append(octets)
            return
        if not self._payloads:
            self._is_compressed = frame_slice.is_compressed
        size = frame_slice.stop - frame_slice.payload_start
        self._octets += octets
        if frame_slice.payload_offset:
            self._payloads[-1].stop += size
        else:
            self._payloads.append(_Payload(len(self._octets) - size, len(self._octets), frame_slice.mask))
        if frame_slice.ends_message:
            inflater = self._inflater if self._is_compressed else None
            sendable.append(HeldMessage(bytes(self._octets), self._payloads, inflater))
            self._octets, self._payloads = bytearray(), []

    def _stop(self, close_code: int, reason: str) -> None:
        self.violation = Violation(close_code, reason)
        self._octets, self._payloads = bytearray(), []
