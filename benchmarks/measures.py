"""Measuring: what a server took for a load, as figures."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import Load, Scenario, Streams, Turns
from benchmarks.processes import ProcessTree
from benchmarks.servers import Server, ServerFailed, Upstream
from benchmarks.tally import Progress, Tally

# What a server still does for a load after its end, in seconds: it records turns.
_SETTLE_SECONDS = 0.3
#: When the middle of a stream has surely come, as a part of all events.
_MIDDLE = 0.6
# The memory of fewer streams is lost in what a server takes and gives back by itself.
_LEAST_STREAMS_FOR_MEMORY = 10
_WARM_UP = Turns(connections=8, duration=0.4, time_limit=20.0)

Figures = Mapping[str, float | None]
Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Column:
    """A figure: less is better, but for those of which more is.

    :ivar name: in JSON; says the unit.
    :ivar heading: two lines of a table's head.
    :ivar digits: behind the decimal point.
    """

    name: str
    heading: tuple[str, str]
    digits: int


_MEMORY = "memory_kib_per_stream"
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
    Column(_MEMORY, ("memory", "KiB/stream"), 0),
)
SOCKET_COLUMNS = (
    Column("cpu_us_per_event", ("CPU/message", "µs"), 1),
    Column("cpu_us_per_further_event", ("further", "µs"), 1),
    *_TIMES,
    Column(_MEMORY, ("memory", "KiB/socket"), 0),
)
TURN_COLUMNS = (
    Column("cpu_us_per_turn", ("CPU/turn", "µs"), 0),
    Column("turns_per_second", ("turns", "per s"), 0),
    *_TIMES,
)


@dataclass(frozen=True)
class Measurement:
    """What one server took for one load.

    :ivar size: of the load: streams, connections, or WebSockets.
    :ivar figures: by the name of their column; ``None`` for what there is none of, or could not be had.
    :ivar whole: streams or turns that arrived as they were sent.
    :ivar failures: what went wrong with the others, and how often.
    :ivar busy: the part of one CPU that the busiest process of generator and upstream took.
    """

    server: str
    size: int
    figures: Figures
    whole: int
    failures: Mapping[str, int]
    busy: float


class Meter:
    """Measures one running server. Warms it up first, to know what memory it takes without a load.

    :raises ServerFailed: it does not answer as it should.
    """

    def __init__(self, server: Server, upstream: Upstream) -> None:
        self._server = server
        self._upstream = upstream
        # Twice: of the first, one worker may take every connection, and the other's first request costs memory, too.
        for _ in range(2):
            warm_up = self._play(_WARM_UP, lambda progress: None)
            if warm_up.tally.failures:
                reason = next(iter(warm_up.tally.failures))
                raise ServerFailed(f"{server.name} does not work: {reason}\n{server.log_text()}".strip())
        self._idle_memory = server.tree.memory_bytes() if server.tree else 0

    @property
    def name(self) -> str:
        """Of the server."""
        return self._server.name

    def streams(self, scenario: Streams, watch: Watch) -> Measurement:
        """Measure streams, or WebSockets; ``watch`` is told of the progress."""
        halfway = _Halfway(scenario, self._server.tree)

        def see(progress: Progress) -> None:
            halfway.see(progress)
            watch(progress)

        played = self._play(scenario, see)
        count, memory = len(scenario.starts), None
        if halfway.memory is not None and count >= _LEAST_STREAMS_FOR_MEMORY:
            memory = (halfway.memory - self._idle_memory) / 1024 / count
        figures = {
            "cpu_us_per_event": played.cpu_us_for(played.tally.events),
            "cpu_us_per_further_event": halfway.cpu_us_per_event,
            **_times(played.tally),
            _MEMORY: memory,
        }
        return self._measurement(count, figures, played)

    def turns(self, scenario: Turns, watch: Watch) -> Measurement:
        """Measure small turns; ``watch`` is told of the progress."""
        played = self._play(scenario, watch)
        figures = {
            "cpu_us_per_turn": played.cpu_us_for(played.tally.ended),
            "turns_per_second": played.tally.ended / scenario.duration,
            **_times(played.tally),
        }
        return self._measurement(scenario.connections, figures, played)

    def _measurement(self, size: int, figures: Figures, played: _Played) -> Measurement:
        tally = played.tally
        return Measurement(self._server.name, size, figures, tally.ended, dict(tally.failures), played.busy)

    def _play(self, scenario: Scenario, watch: Watch) -> _Played:
        tree, upstream = self._server.tree, self._upstream
        with Load(self._server.target, scenario) as load:
            cpu = tree.cpu_seconds() if tree else None
            began, upstream_cpu = time.monotonic(), upstream.tree.cpu_seconds()
            for progress in load.progress():
                watch(progress)
            upstream_share = (upstream.tree.cpu_seconds() - upstream_cpu) / (time.monotonic() - began)
        taken = None
        if tree is not None and cpu is not None:
            # It may still be recording turns, which is part of their price.
            time.sleep(_SETTLE_SECONDS)
            taken = tree.cpu_seconds() - cpu
        return _Played(load.tally, taken, max(load.tally.busy, upstream_share / upstream.processes))


@dataclass(frozen=True)
class _Played:
    """What came of a scenario.

    :ivar cpu_seconds: that the server took.
    """

    tally: Tally
    cpu_seconds: float | None
    busy: float

    def cpu_us_for(self, count: int) -> float | None:
        """Return its CPU time for each of so many."""
        return None if self.cpu_seconds is None or not count else self.cpu_seconds * 1e6 / count


class _Halfway:
    """A server while all streams are open: between their begin and their end.

    :ivar memory: in bytes; ``None`` where the streams were never all open at once.
    :ivar cpu_us_per_event: of the events alone, without what opening and ending a stream takes.
    """

    def __init__(self, scenario: Streams, tree: ProcessTree | None) -> None:
        self.memory: int | None = None
        self.cpu_us_per_event: float | None = None
        self._streams = len(scenario.starts)
        self._middle = _MIDDLE * self._streams * scenario.events
        self._tree = tree
        self._opened: tuple[float, int] | None = None

    def see(self, progress: Progress) -> None:
        """Take a sample when it is time to."""
        if self._tree is None or progress.opened < self._streams or progress.ended:
            return
        if self._opened is None:
            self._opened = self._tree.cpu_seconds(), progress.events
        elif self.memory is None and progress.events >= self._middle:
            cpu, events = self._opened
            self.cpu_us_per_event = (self._tree.cpu_seconds() - cpu) * 1e6 / (progress.events - events)
            self.memory = self._tree.memory_bytes()


def _times(tally: Tally) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name, values in (("latency", tally.latencies), ("first_byte", tally.first_bytes)):
        ordered = sorted(values)
        for percent in (50, 99):
            figures[f"{name}_p{percent}_ms"] = percentile(ordered, percent) / 1e6 if ordered else None
    return figures


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that so many percent of all do not exceed.

    :param ordered: not empty.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(rounds: Sequence[Measurement]) -> Measurement:
    """Return one measurement for several of the same server and load: the median of each figure, all failures.

    A figure that was missing once is missing. Of memory it is the least: a server keeps what a larger load of the
    round before has taken.
    """
    columns = {name: [round_.figures[name] for round_ in rounds] for name in rounds[0].figures}
    failures = sum((Counter(round_.failures) for round_ in rounds), Counter[str]())
    return Measurement(
        rounds[0].server,
        rounds[0].size,
        {name: _combined(values, min if name == _MEMORY else statistics.median) for name, values in columns.items()},
        sum(round_.whole for round_ in rounds),
        failures,
        max(round_.busy for round_ in rounds),
    )


def _combined(values: Sequence[float | None], combine: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return combine(known) if len(known) == len(values) else None
