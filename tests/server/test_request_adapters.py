"""The wrapper around gunicorn's request body."""

from __future__ import annotations

import io
import math
import time

import pytest

from ocm_wsgi.server.request_adapters import BLOCK_SECONDS, TimedBody


class Body(io.BytesIO):
    """A body that notes the deadline of each read, in seconds from now."""

    def __init__(self, deadlines: dict[object, float]) -> None:
        super().__init__(b"one\ntwo\nthree\n")
        self.deadlines = deadlines
        self.seconds: list[float] = []

    def read(self, size: int | None = -1, /) -> bytes:
        self.seconds.append(self.deadlines["conn"] - time.monotonic())
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self.seconds.append(self.deadlines["conn"] - time.monotonic())
        return super().readline(size)


@pytest.mark.parametrize("limit", [None, 5.0])
def test_deadlines_of_reads(limit: float | None) -> None:
    """Each read has a deadline; if all of the body must arrive within a time, no read extends it."""
    deadlines: dict[object, float] = {}
    body = Body(deadlines)
    timed = TimedBody(body, deadlines, "conn")
    began = time.monotonic()
    if limit is not None:
        timed.arrive_within(limit)
    assert timed.read(3) == b"one"
    assert timed.readline() == b"\n"
    elapsed = time.monotonic() - began
    expected = BLOCK_SECONDS if limit is None else limit
    assert all(expected - elapsed <= seconds <= expected for seconds in body.seconds)
    assert deadlines["conn"] == math.inf
