"""Figures of servers under loads, and what several rounds of them have in common. No I/O."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: By column name; ``None`` for figures that do not exist or could not be measured.
Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Column:
    """A figure. Less is better, except for figures marked otherwise.

    :ivar name: in JSON; says the unit.
    :ivar heading: the two lines of the table's header.
    :ivar digits: the number of decimals.
    """

    name: str
    heading: tuple[str, str]
    digits: int


MEMORY = "memory_kib_per_stream"
_TIMES = (
    Column("latency_p50_ms", ("latency", "p50 ms"), 2),
    Column("latency_p99_ms", ("latency", "p99 ms"), 2),
    Column("first_byte_p50_ms", ("first byte", "p50 ms"), 2),
    Column("first_byte_p99_ms", ("first byte", "p99 ms"), 2),
)
STREAM_COLUMNS = (
    Column("cpu_us_per_event", ("CPU/event", "µs"), 1),
    Column("cpu_us_per_further_event", ("further", "µs"), 1),
    *_TIMES,
    Column(MEMORY, ("memory", "KiB/stream"), 0),
)
SOCKET_COLUMNS = (
    Column("cpu_us_per_event", ("CPU/message", "µs"), 1),
    Column("cpu_us_per_further_event", ("further", "µs"), 1),
    *_TIMES,
    Column(MEMORY, ("memory", "KiB/socket"), 0),
)
TURN_COLUMNS = (
    Column("cpu_us_per_turn", ("CPU/turn", "µs"), 0),
    Column("turns_per_second", ("turns", "per s"), 0),
    *_TIMES,
)
ARRIVAL_COLUMNS = (
    Column("cpu_percent", ("CPU", "% of one"), 0),
    *_TIMES[:2],
    Column("turn_first_byte_p50_ms", ("new turns", "p50 ms"), 2),
    Column("turn_first_byte_p99_ms", ("new turns", "p99 ms"), 2),
    Column("quiet_first_byte_p50_ms", ("quiet user", "p50 ms"), 2),
    Column("quiet_first_byte_p99_ms", ("quiet user", "p99 ms"), 2),
)


@dataclass(frozen=True)
class Measurement:
    """The measurement of one server under one load.

    :ivar size: of the load: streams, WebSockets, connections, or new turns per second.
    :ivar figures: the medians of all rounds.
    :ivar whole: the number of streams and turns that arrived exactly as sent.
    :ivar failures: the reasons why others failed, with their counts.
    :ivar busy: the fraction of a CPU used by the busiest process of generator and upstream.
    :ivar rounds: the figures of each round, if there were several.
    """

    server: str
    size: int
    figures: Figures
    whole: int
    failures: Mapping[str, int]
    busy: float
    rounds: Sequence[Figures] = ()

    def values(self, name: str) -> list[float | None]:
        """Return a figure of each round."""
        return [figures[name] for figures in self.rounds or (self.figures,)]


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds."""

    median: float
    lowest: float
    highest: float


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that ``percent`` percent of all values do not exceed.

    :param ordered: not empty.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def times(name: str, values: Sequence[int]) -> dict[str, float | None]:
    """Return the median and the 99th percentile of times in nanoseconds as figures in milliseconds."""
    ordered = sorted(values)
    return {f"{name}_p{percent}_ms": percentile(ordered, percent) / 1e6 if ordered else None for percent in (50, 99)}


def median(rounds: Sequence[Measurement]) -> Measurement:
    """Combine measurements of the same server and load: the median of each figure, and all failures.

    A figure missing from one round is missing. For memory it is the minimum, as a server retains memory that it
    allocated for a larger load in the previous round.
    """
    columns = {name: [round_.figures[name] for round_ in rounds] for name in rounds[0].figures}
    failures = sum((Counter(round_.failures) for round_ in rounds), Counter[str]())
    return Measurement(
        rounds[0].server,
        rounds[0].size,
        {name: _combined(values, min if name == MEMORY else statistics.median) for name, values in columns.items()},
        sum(round_.whole for round_ in rounds),
        failures,
        max(round_.busy for round_ in rounds),
        tuple(round_.figures for round_ in rounds),
    )


def _combined(values: Sequence[float | None], combine: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return combine(known) if len(known) == len(values) else None


def ratio(subject: Measurement, reference: Measurement, name: str) -> Spread | None:
    """Return a figure as multiples of another server's in the same round, or ``None`` if that is not possible.

    What else happens on the machine during a round affects both.
    """
    ratios = []
    for value, base in zip(subject.values(name), reference.values(name), strict=True):
        # Values near zero, or negative as memory can be within its noise, cannot be compared with.
        if value is None or base is None or base <= 0:
            return None
        ratios.append(value / base)
    return Spread(statistics.median(ratios), min(ratios), max(ratios))
