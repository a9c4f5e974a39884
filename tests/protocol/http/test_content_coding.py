"""Decoding of content codings, and the bodies that expand too much."""

from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.http.content_coding import (
    CALL_LIMIT_BYTES,
    LARGE_BYTES,
    LARGEST_RATIO,
    LARGEST_RATIO_OF_LARGE,
    UNBOUNDED_RATIO_BYTES,
    DecodingError,
    decoder_for,
    readable_codings,
)

MIB = 1024 * 1024
#: The most that a decoder yields at once, however small its input.
LARGEST_PIECE = 8 * MIB


def raw_deflate(data: bytes) -> bytes:
    """Compress without zlib's header, as some senders do."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


CODINGS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", raw_deflate, id="raw-deflate"),
    pytest.param("zstd", zstandard.ZstdCompressor().compress, id="zstd"),
]
Compress = Callable[[bytes], bytes]


def decoded(coding: str, encoded: bytes, block_size: int = 64 * 1024) -> Iterator[bytes]:
    """Yield the pieces of a body that is decoded in blocks."""
    decoder = decoder_for(coding)
    assert decoder is not None
    for at in range(0, len(encoded), block_size):
        yield from decoder.decode(encoded[at : at + block_size])


def size_of_bomb(coding: str, encoded: bytes, block_size: int = 64 * 1024) -> int:
    """Return how much of a body is decoded before it is given up."""
    sizes: list[int] = []
    with pytest.raises(DecodingError):
        sizes.extend(map(len, decoded(coding, encoded, block_size)))
    assert max(sizes, default=0) <= LARGEST_PIECE
    return sum(sizes)


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("block_size", [1, 1000, 64 * 1024])
def test_text_is_decoded(coding: str, compress: Compress, block_size: int) -> None:
    """Text that shrinks to a thirtieth is decoded, in any split."""
    words = random.Random(1).choices(
        [b'{"type":"response.output_text.delta","delta":"%d"}' % i for i in range(50)], k=9000
    )
    text = b"".join(words)
    encoded = compress(text)
    assert len(text) > 20 * len(encoded)
    assert b"".join(decoded(coding, encoded, block_size)) == text


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_small_body_may_expand(coding: str, compress: Compress) -> None:
    """Up to a mebibyte, no ratio is too large."""
    text = bytes(UNBOUNDED_RATIO_BYTES)
    assert b"".join(decoded(coding, compress(text))) == text


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("block_size", [100, 64 * 1024])
def test_bomb_is_given_up(coding: str, compress: Compress, block_size: int) -> None:
    """What is decoded of a bomb is in proportion to its size."""
    encoded = compress(bytes(40 * MIB))
    limit = max(UNBOUNDED_RATIO_BYTES, min(LARGEST_RATIO * len(encoded), LARGE_BYTES))
    assert size_of_bomb(coding, encoded, block_size) <= limit


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_large_bomb_is_given_up(coding: str, compress: Compress) -> None:
    """The larger a body is, the less it may expand."""
    noise = random.Random(1)
    encoded = compress(b"".join(noise.randbytes(1000) + bytes(60_000) for _ in range(400)))
    assert LARGEST_RATIO * len(encoded) > LARGE_BYTES
    assert size_of_bomb(coding, encoded) <= max(LARGE_BYTES, LARGEST_RATIO_OF_LARGE * len(encoded))


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_one_call_is_bounded(coding: str, compress: Compress) -> None:
    """A bomb behind megabytes that do not shrink cannot use what those have saved up, all in one call."""
    encoded = compress(random.Random(1).randbytes(4 * MIB) + bytes(16 * MIB))
    decoder = decoder_for(coding)
    assert decoder is not None
    blocks = [encoded[at : at + 64 * 1024] for at in range(0, len(encoded), 64 * 1024)]
    sizes: list[list[int]] = []

    def decode_all() -> None:
        for block in blocks:
            sizes.append([])
            sizes[-1].extend(map(len, decoder.decode(block)))

    with pytest.raises(DecodingError):
        decode_all()
    assert 60 < len(sizes) <= len(blocks)
    assert max(map(sum, sizes)) <= CALL_LIMIT_BYTES


@given(st.binary(max_size=5000), st.integers(1, 6000), st.sampled_from(CODINGS))
def test_any_data_is_decoded(data: bytes, block_size: int, coding: object) -> None:
    """Small bodies are decoded whatever they contain."""
    name, compress = coding.values  # type: ignore[attr-defined]  # a ParameterSet
    assert b"".join(decoded(name, compress(data), block_size)) == data


@given(st.binary(max_size=2000), st.integers(1, 3000), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_any_octets_fail_cleanly(data: bytes, block_size: int, coding: str) -> None:
    """What is no coded body raises nothing but the documented error."""
    with contextlib.suppress(DecodingError):
        list(decoded(coding, data, block_size))


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "zstd,gzip", "x", "*"])
def test_other_codings(coding: str) -> None:
    """Other codings, and several, are not read."""
    with pytest.raises(DecodingError):
        decoder_for(coding)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("gzip, deflate", "gzip, deflate"),
        ("zstd;q=1.0,gzip;q=0.5", "zstd;q=1.0,gzip;q=0.5"),
        ("gzip, deflate, br, zstd", "gzip, deflate, zstd"),
        ("br", "identity"),
        ("BR;q=1, GZIP ;q=0.1", "GZIP ;q=0.1"),
        ("*", "identity"),
        ("gzip, *;q=0.5", "gzip"),
        ("", "identity"),
        ("br, ,x-unknown", "identity"),
        ("gzip br", "identity"),
        ("identity;q=0, br", "identity;q=0"),
    ],
)
def test_readable_codings(asked: str, sent: str) -> None:
    """Only codings that can be read are asked for; a value that names no other is unchanged."""
    assert readable_codings(asked) == sent
    for member in sent.split(","):
        decoder_for(member.partition(";")[0])
