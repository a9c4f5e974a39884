"""Counts and times collected by the load generator."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field


def _times() -> array[int]:
    return array("q")


@dataclass(frozen=True)
class Progress:
    """Intermediate counts.

    :ivar opened: streams whose response has begun.
    :ivar ended: streams and turns received completely.
    """

    opened: int = 0
    events: int = 0
    ended: int = 0
    failed: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.opened + other.opened,
            self.events + other.events,
            self.ended + other.ended,
            self.failed + other.failed,
        )


@dataclass
class Tally:
    """The counts of :class:`Progress`, and times in nanoseconds.

    :ivar latencies: for each event, from its timestamp to its arrival.
    :ivar first_bytes: for each stream and turn, from its request to the first byte of its response.
    :ivar turn_first_bytes: the same for new turns beside open streams.
    :ivar quiet_first_bytes: the same for those of the user who has few of them.
    :ivar failures: what went wrong, and how often.
    :ivar busy: the fraction of a CPU used by the generator's busiest process, from 0 to 1.
    """

    opened: int = 0
    events: int = 0
    ended: int = 0
    latencies: array[int] = field(default_factory=_times)
    first_bytes: array[int] = field(default_factory=_times)
    turn_first_bytes: array[int] = field(default_factory=_times)
    quiet_first_bytes: array[int] = field(default_factory=_times)
    failures: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0

    def progress(self) -> Progress:
        """Return the current counts."""
        return Progress(self.opened, self.events, self.ended, sum(self.failures.values()))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.opened + other.opened,
            self.events + other.events,
            self.ended + other.ended,
            self.latencies + other.latencies,
            self.first_bytes + other.first_bytes,
            self.turn_first_bytes + other.turn_first_bytes,
            self.quiet_first_bytes + other.quiet_first_bytes,
            self.failures + other.failures,
            max(self.busy, other.busy),
        )
