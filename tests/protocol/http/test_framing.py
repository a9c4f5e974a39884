"""Framing is decoded and encoded exactly, in any split of reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.http.framing import LAST_CHUNK, Chunked, FramingError, chunk, framing_for

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the octets in reads that end at these positions."""
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


@given(pieces=PIECES, cuts=st.lists(st.integers(0, 10_000)), trailer=st.sampled_from([b"", b"X-A: b\r\n"]))
def test_chunked_body_round_trip(pieces: list[bytes], cuts: list[int], trailer: bytes) -> None:
    """A body in any chunks and any reads is decoded completely, and its end is detected."""
    wire = b"".join(map(chunk, pieces)) + b"0\r\n" + trailer + b"\r\n"
    framing = Chunked()
    received = b"".join(framing.feed(read) for read in split(wire, cuts))
    assert received == b"".join(pieces)
    assert framing.has_ended
    assert not framing.has_excess


@given(pieces=PIECES, cuts=st.lists(st.integers(0, 10_000)), trailer=st.sampled_from([b"", b"X-A: b\r\n"]))
def test_single_chunk_is_detected(pieces: list[bytes], cuts: list[int], trailer: bytes) -> None:
    """A read is reported as one chunk only if it starts at a chunk's beginning and equals what would be sent."""
    wire = b"".join(map(chunk, pieces)) + b"0\r\n" + trailer + b"\r\n"
    starts = {len(b"".join(map(chunk, pieces[:i]))) for i in range(len(pieces))}
    framing, at = Chunked(), 0
    for read in split(wire, cuts):
        piece = framing.feed(read)
        assert framing.was_single_chunk == (at in starts and bool(piece) and read == chunk(piece))
        at += len(read)


@pytest.mark.parametrize(
    "wire",
    [b"A\r\n0123456789\r\n", b"0a\r\n0123456789\r\n", b"a;b\r\n0123456789\r\n", b"a \r\n0123456789\r\n", LAST_CHUNK],
)
def test_other_notation_is_not_a_single_chunk(wire: bytes) -> None:
    """Chunks in other notations, and the last chunk, are not reported as one chunk."""
    framing = Chunked()
    assert framing.feed(wire) in (b"0123456789", b"")
    assert not framing.was_single_chunk


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"00A \r\n0123456789\r\n0;x\r\n\r\n", b"0123456789"),
        (b"a\r\n0123456789\r\n" + LAST_CHUNK, b"0123456789"),
    ],
)
def test_extensions_are_dropped(wire: bytes, body: bytes) -> None:
    """Chunk extensions are for this connection only."""
    framing = Chunked()
    assert framing.feed(wire) == body
    assert framing.close()


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x3\r\nabc",
        b"\r\nabc",
        b"+3\r\nabc",
        b"3\r\nabcd\r\n",
        b"3\r\nabcde",
        b"1" * 20 + b"\r\n",
        b"3;" + b"x" * 9000,
        b"0\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_invalid_chunk_is_refused(wire: bytes) -> None:
    """Invalid sizes, data beyond the size and endless lines are errors."""
    with pytest.raises(FramingError):
        Chunked().feed(wire)


@pytest.mark.parametrize("wire", [b"3\r\nabcx\r\n", b"3\r\nabcde", b"2\r\nab\r\n1\r\nc\r\nzz\r\n"])
def test_error_carries_decoded_octets(wire: bytes) -> None:
    """The error carries the body's octets that came before it in the same piece."""
    with pytest.raises(FramingError) as raised:
        Chunked().feed(wire)
    assert raised.value.decoded == b"abc"


@pytest.mark.parametrize(
    ("is_chunked", "length", "wire", "body", "is_complete", "has_excess"),
    [
        (False, 3, b"abc", b"abc", True, False),
        (False, 3, b"ab", b"ab", False, False),
        (False, 3, b"abcd", b"abc", True, True),
        (False, 0, b"", b"", True, False),
        (False, None, b"abc", b"abc", True, False),
        (True, None, b"3\r\nab", b"ab", False, False),
        (True, None, LAST_CHUNK + b"HTTP/1.1", b"", True, True),
        (True, 5, LAST_CHUNK, b"", True, False),
    ],
)
def test_end_of_body(
    is_chunked: bool, length: int | None, wire: bytes, body: bytes, is_complete: bool, has_excess: bool
) -> None:
    """Every framing detects its end, whether the connection's end is valid, and excess octets."""
    framing = framing_for(is_chunked=is_chunked, length=length)
    received = framing.feed(wire)
    assert (received, framing.has_excess, framing.close()) == (body, has_excess, is_complete)
