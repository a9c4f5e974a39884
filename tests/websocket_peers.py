"""WebSocket peers for tests: the ``websockets`` package makes the frames, and this module splits them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from ocm_wsgi.protocol.websocket.deflate import DeflateParameters


class Peer:
    """The sending side of a WebSocket.

    :param deflate: the negotiated compression, or ``None``.
    :param is_client: whether frames are masked.
    """

    def __init__(self, deflate: DeflateParameters | None = None, *, is_client: bool = False) -> None:
        self._is_client = is_client
        self._extensions = [] if deflate is None else [_extension(deflate, is_client)]

    def frame(self, opcode: Opcode, data: bytes, *, fin: bool = True, compress: bool = True) -> bytes:
        """Return one frame, compressed if that was negotiated."""
        extensions = self._extensions if compress else []
        return Frame(opcode, data, fin).serialize(mask=self._is_client, extensions=extensions)

    def text(self, data: bytes, *, compress: bool = True) -> bytes:
        """Return a message in one frame."""
        return self.frame(Opcode.TEXT, data, compress=compress)

    def fragments(self, pieces: Sequence[bytes]) -> list[bytes]:
        """Return the frames of a fragmented message."""
        opcodes = [Opcode.TEXT, *[Opcode.CONT] * (len(pieces) - 1)]
        return [
            self.frame(opcode, piece, fin=number == len(pieces))
            for number, (opcode, piece) in enumerate(zip(opcodes, pieces, strict=True), 1)
        ]


def _extension(deflate: DeflateParameters, is_client: bool) -> PerMessageDeflate:
    server = (deflate.server_no_context_takeover, deflate.server_max_window_bits)
    client = (deflate.client_no_context_takeover, deflate.client_max_window_bits)
    local, remote = (client, server) if is_client else (server, client)
    return PerMessageDeflate(remote[0], local[0], remote[1], local[1])


def pieces_of(data: bytes, seed: int, *, most: int) -> Iterator[bytes]:
    """Yield pieces of up to ``most`` octets, some of them empty."""
    choose = random.Random(seed)
    at = 0
    while at < len(data):
        size = choose.randint(0, most)
        yield data[at : at + size]
        at += size


@dataclass(frozen=True)
class Split:
    """A reproducible way to split octets."""

    seed: int
    most: int

    def of(self, data: bytes) -> list[bytes]:
        return list(pieces_of(data, self.seed, most=self.most))


SPLITS = st.builds(Split, st.integers(0, 2**32), st.sampled_from([1, 2, 3, 7, 30, 500, 100_000]))

DEFLATES = st.none() | st.builds(
    DeflateParameters, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15)
)
