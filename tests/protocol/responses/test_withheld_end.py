"""What is held back of a body, however it is split."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.withheld_end import WithheldEnd

PIECES = st.lists(st.binary(max_size=4), max_size=8)


@given(PIECES)
def test_last_octet(pieces: list[bytes]) -> None:
    """Of any body but a stream exactly the last octet is held, until the body is complete."""
    end = WithheldEnd(is_stream=False)
    sent = b""
    for number, piece in enumerate(pieces):
        sent += end.pass_through(piece)
        assert sent == b"".join(pieces[: number + 1])[:-1]
        assert end.release() == b""
    end.finish()
    assert sent + end.release() == b"".join(pieces)
    assert end.release() == b""


@given(PIECES, st.binary(max_size=4), st.binary(min_size=1, max_size=4), PIECES)
def test_end_of_a_stream(before: list[bytes], start: bytes, terminal: bytes, after: list[bytes]) -> None:
    """Of a stream everything passes up to its terminal event, and nothing from there on until it may."""
    end = WithheldEnd(is_stream=True)
    assert [end.pass_through(piece) for piece in before] == before
    assert end.hold_from(start + terminal, len(start)) == start
    assert [end.pass_through(piece) for piece in after] == [b""] * len(after)
    assert end.release() == terminal + b"".join(after)
    assert end.pass_through(b"later") == b"later"
