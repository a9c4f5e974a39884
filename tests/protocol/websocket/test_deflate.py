"""permessage-deflate: negotiated parameters (RFC 7692 section 7.1), and decompression in bounded pieces."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.websocket.deflate import DeflateParameters, Inflater, UnsupportedExtensions, negotiated

NEGOTIATED = [
    pytest.param(None, None, id="no-field"),
    pytest.param("  ", None, id="empty"),
    pytest.param("permessage-deflate", DeflateParameters(), id="plain"),
    pytest.param("Permessage-Deflate ,", DeflateParameters(), id="case-and-empty-member"),
    pytest.param(
        "permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
        DeflateParameters(server_no_context_takeover=True, client_max_window_bits=12),
        id="parameters",
    ),
    pytest.param(
        'permessage-deflate;client_no_context_takeover ;server_max_window_bits = "8"',
        DeflateParameters(client_no_context_takeover=True, server_max_window_bits=8),
        id="quoted-and-blanks",
    ),
]

NOT_UNDERSTOOD = [
    "x-webkit-deflate-frame",
    "permessage-deflate, permessage-deflate",
    "permessage-deflate, bbf-usp-protocol",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; unknown",
    "permessage-deflate unknown",
    'permessage-deflate; server_max_window_bits="12',
    ";",
]


@pytest.mark.parametrize(("value", "parameters"), NEGOTIATED)
def test_negotiated_reads_the_parameters(value: str | None, parameters: DeflateParameters | None) -> None:
    """Negotiated parameters are parsed in every form that RFC 7692 allows."""
    assert negotiated(value) == parameters


@pytest.mark.parametrize("value", NOT_UNDERSTOOD)
def test_negotiated_refuses_unsupported_extensions(value: str) -> None:
    """Other extensions and parameters out of range are refused."""
    with pytest.raises(UnsupportedExtensions):
        negotiated(value)


def compressed(text: bytes, level: int = -1) -> bytes:
    stream = zlib.compressobj(level, wbits=-15)
    return (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("context_takeover", [False, True])
def test_feed_limits_a_decompression_bomb(context_takeover: bool) -> None:
    """A message that expands a thousandfold is decompressed in small pieces, completely."""
    bomb = compressed(bytes(64 * 1024 * 1024), level=9)
    inflater = Inflater(15, context_takeover=context_takeover)
    tracemalloc.start()
    length = sum(len(piece) for piece in inflater.feed(bomb, is_last=True))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == 64 * 1024 * 1024
    assert held < 1024 * 1024


@pytest.mark.parametrize("size", [65535, 65536, 65537, 131072])
def test_feed_at_the_boundary_of_a_piece(size: int) -> None:
    """No data is left in the inflater if a message ends exactly with a piece."""
    inflater = Inflater(15, context_takeover=True)
    for text in (b"a" * size, b"b" * size):
        stream = zlib.compressobj(wbits=-15)
        data = (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert b"".join(inflater.feed(data, is_last=True)) == text


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff", id="no-deflate"),
        pytest.param(zlib.compress(b"text", wbits=-15), id="final-block"),
    ],
)
def test_feed_never_recovers_from_an_error(data: bytes) -> None:
    """After a message that cannot be decompressed, no other can be."""
    inflater = Inflater(15, context_takeover=True)
    with pytest.raises(DecodingError):
        list(inflater.feed(data, is_last=True))
    with pytest.raises(DecodingError):
        list(inflater.feed(compressed(b"text"), is_last=True))


def test_skip_without_context_takeover() -> None:
    """Without context takeover the rest of a message can be skipped, and the next one is read."""
    inflater = Inflater(15, context_takeover=False)
    for _ in inflater.feed(compressed(b"one" * 100)[:20], is_last=False):
        inflater.skip()
    assert b"".join(inflater.feed(compressed(b"two"), is_last=True)) == b"two"


def test_skip_with_context_takeover() -> None:
    """With context takeover, skipping a message makes later ones unreadable, which is reported."""
    inflater = Inflater(15, context_takeover=True)
    inflater.skip()
    with pytest.raises(DecodingError):
        list(inflater.feed(compressed(b"two"), is_last=True))
