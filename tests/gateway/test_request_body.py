"""Request bodies: read in full, limited in size, and replayable."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import BodyTooLarge, BodyTruncated, NoRoomForBody
from ocm_wsgi.gateway.request_body import MEMORY_LIMIT_BYTES, Input, read_body


class Trickle:
    """A stream that returns a few bytes at a time, and then raises its error if it has one."""

    def __init__(self, content: bytes, step: int = 3, error: OSError | None = None) -> None:
        self._content = io.BytesIO(content)
        self._step = step
        self._error = error
        self.was_read = False

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``step`` bytes."""
        self.was_read = True
        piece = self._content.read(min(self._step, size))
        if not piece and self._error:
            raise self._error
        return piece


@given(st.binary(max_size=200), st.integers(1, 7), st.booleans())
def test_read_body_preserves_every_byte(content: bytes, step: int, is_announced: bool) -> None:
    """A body is read in full, with or without a length, and can be read again from its beginning."""
    with read_body(Trickle(content, step), announced=len(content) if is_announced else None, limit=200) as body:
        assert body.length == len(content)
        assert body.rewound().read() == content
        assert body.rewound().read() == content


def test_read_body_leaves_the_next_request_alone() -> None:
    """No more than the announced length is read."""
    stream = io.BytesIO(b"bodyGET / HTTP/1.1")
    with read_body(stream, announced=4, limit=10) as body:
        assert body.rewound().read() == b"body"
    assert stream.read() == b"GET / HTTP/1.1"


def test_read_body_spools_large_bodies_to_disk() -> None:
    """A body of more than a mebibyte is not held in memory."""
    with read_body(io.BytesIO(bytes(MEMORY_LIMIT_BYTES + 1)), announced=None, limit=2**30) as body:
        assert body.rewound().fileno() > 0


@pytest.mark.parametrize("size", [MEMORY_LIMIT_BYTES + 1, 2 * MEMORY_LIMIT_BYTES + 1, 5 * MEMORY_LIMIT_BYTES])
@pytest.mark.parametrize("is_announced", [True, False])
def test_read_body_without_room(
    mount: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, is_announced: bool
) -> None:
    """A body for which the disk has no room is refused with a sentence, whenever that is noticed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mount("-t", "tmpfs", "-o", f"size={MEMORY_LIMIT_BYTES}", "tmpfs", tmp_path)
    with pytest.raises(NoRoomForBody, match="no room on its disk") as refusal:
        read_body(io.BytesIO(bytes(size)), announced=size if is_announced else None, limit=2**30)
    assert refusal.value.status == 507
    assert refusal.value.detail is not None
    with read_body(io.BytesIO(bytes(1000)), announced=1000, limit=2**30) as body:
        assert body.length == 1000


@pytest.mark.parametrize(("announced", "was_read"), [(11, False), (None, True)])
def test_read_body_refuses_oversized_bodies(announced: int | None, was_read: bool) -> None:
    """A body over the limit is refused, without being read if its length was announced."""
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
def test_read_body_detects_truncated_bodies(stream: Input, announced: int | None) -> None:
    """A body that ends early is detected before anything is sent upstream."""
    with pytest.raises(BodyTruncated):
        read_body(stream, announced=announced, limit=100)
