"""A clock for tests that let time pass at will."""

from __future__ import annotations


class Clock:
    """Returns a time that a test sets, in Unix seconds."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
