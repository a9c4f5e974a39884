"""The peers that WebSocket tests speak with: the ``websockets`` package makes the frames, here they are cut up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from ocm_wsgi.protocol.websocket.deflate import DeflateParameters


class Peer:
    """One side of a WebSocket, sending.

    :param deflate: what was negotiated, or ``None``.
    :param is_client: whether it masks.
    """

    def __init__(self, deflate: DeflateParameters | None = None, *, is_client: bool = False) -> None:
        self._is_client = is_client
        self._extensions = [] if deflate is None else [_extension(deflate, is_client)]

    def frame(self, opcode: Opcode, data: bytes, *, fin: bool = True, compress: bool = True) -> bytes:
        """One frame; compressed where that was negotiated."""
        extensions = self._extensions if compress else []
        return Frame(opcode, data, fin).serialize(mask=self._is_client, extensions=extensions)

    def text(self, data: bytes, *, compress: bool = True) -> bytes:
        """A message in one frame."""
        return self.frame(Opcode.TEXT, data, compress=compress)

    def fragments(self, pieces: Sequence[bytes]) -> list[bytes]:
        """The frames of a message in several."""
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
    """Cut up: into pieces of up to ``most`` octets, some of them empty."""
    choose = random.Random(seed)
    at = 0
    while at < len(data):
        size = choose.randint(0, most)
        yield data[at : at + size]
        at += size


@dataclass(frozen=True)
class Split:
    """A way to cut octets up."""

    seed: int
    most: int

    def of(self, data: bytes) -> list[bytes]:
        return list(pieces_of(data, self.seed, most=self.most))


SPLITS = st.builds(Split, st.integers(0, 2**32), st.sampled_from([1, 2, 3, 7, 30, 500, 100_000]))

DEFLATES = st.none() | st.builds(
    DeflateParameters, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15)
)
