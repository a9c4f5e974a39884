"""Holds back the end of a body until it may be sent. Pure; no I/O."""

from __future__ import annotations


class WithheldEnd:
    """The end of a body that is being relayed: of a stream its terminal event, of any other body its last octet.

    A stream's terminal event is known when it arrives. The last octet is not, so one is held until more has arrived.

    :param is_stream: whether the body is a stream of events.
    """

    __slots__ = ("_holds_last", "_octets")

    def __init__(self, *, is_stream: bool) -> None:
        self._holds_last = not is_stream
        self._octets = b""

    def pass_through(self, piece: bytes) -> bytes:
        """Return what may be sent now, of a piece and of what was held before."""
        if self._holds_last:
            piece = self._octets + piece
            piece, self._octets = piece[:-1], piece[-1:]
        elif self._octets:
            piece, self._octets = b"", self._octets + piece
        return piece

    def hold_from(self, piece: bytes, start: int) -> bytes:
        """Return what may be sent now, of a piece whose octets from ``start`` are the end, and of what was held."""
        sendable, self._octets = self._octets + piece[:start], piece[start:]
        return sendable

    def release(self) -> bytes:
        """Return what may be sent now that the end may be; the last octet only after :meth:`finish`."""
        piece, self._octets = self._octets, b""
        return self.pass_through(piece)

    def finish(self) -> None:
        """Note that the body is complete."""
        self._holds_last = False
