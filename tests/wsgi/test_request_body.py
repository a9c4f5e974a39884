"""Request bodies: read whole, bounded, and sendable more than once."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import BodyTooLarge, BodyTruncated
from ocm_wsgi.wsgi.request_body import MEMORY_LIMIT_BYTES, Input, read_body


class Trickle:
    """Gives a few octets at a time, and then an error if it has one."""

    def __init__(self, content: bytes, step: int = 3, error: OSError | None = None) -> None:
        self._content = io.BytesIO(content)
        self._step = step
        self._error = error
        self.was_read = False

    def read(self, size: int = -1, /) -> bytes:
        """At most ``step`` octets."""
        self.was_read = True
        piece = self._content.read(min(self._step, size))
        if not piece and self._error:
            raise self._error
        return piece


@given(st.binary(max_size=200), st.integers(1, 7), st.booleans())
def test_read_body_keeps_every_octet(content: bytes, step: int, is_announced: bool) -> None:
    """A body arrives whole, announced or chunked, and can be read again from its beginning."""
    with read_body(Trickle(content, step), announced=len(content) if is_announced else None, limit=200) as body:
        assert body.length == len(content)
        assert body.rewound().read() == content
        assert body.rewound().read() == content


def test_read_body_leaves_the_next_request_alone() -> None:
    """No more is read than was announced."""
    stream = io.BytesIO(b"bodyGET / HTTP/1.1")
    with read_body(stream, announced=4, limit=10) as body:
        assert body.rewound().read() == b"body"
    assert stream.read() == b"GET / HTTP/1.1"


def test_read_body_puts_a_large_one_on_disk() -> None:
    """Beyond a mebibyte memory is not used."""
    with read_body(io.BytesIO(bytes(MEMORY_LIMIT_BYTES + 1)), announced=None, limit=2**30) as body:
        assert body.rewound().fileno() > 0


@pytest.mark.parametrize(("announced", "was_read"), [(11, False), (None, True)])
def test_read_body_refuses_one_too_large(announced: int | None, was_read: bool) -> None:
    """A body beyond the limit is refused, and not even read when its length was announced."""
    stream = Trickle(bytes(11))
    with pytest.raises(BodyTooLarge):
        read_body(stream, announced=announced, limit=10)
    assert stream.was_read is was_read


@pytest.mark.parametrize(
    ("stream", "announced"),
    [
        pytest.param(io.BytesIO(b"12345"), 10, id="ends-early"),
        pytest.param(Trickle(b"12345", error=ConnectionResetError()), 10, id="reset"),
        pytest.param(Trickle(b"12345", error=OSError("no more data")), None, id="broken-chunk"),
    ],
)
def test_read_body_notices_a_truncated_one(stream: Input, announced: int | None) -> None:
    """A client that stops half-way is noticed before anything goes upstream."""
    with pytest.raises(BodyTruncated):
        read_body(stream, announced=announced, limit=100)
