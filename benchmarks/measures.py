"""Measures a server's CPU time, memory and latency under a load."""

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

# How long a server still works after a load has ended, in seconds: it records turns.
_SETTLE_SECONDS = 0.3
# The fraction of all events after which the streams are certainly in their middle.
_MIDDLE = 0.6
# The memory of fewer streams is lost in the noise of a server's own allocations.
_LEAST_STREAMS_FOR_MEMORY = 10
#: How long each of the two loads lasts that warm a server up.
WARM_UP_SECONDS = 0.4
_WARM_UP_CONNECTIONS = 8
_WARM_UP_TIME_LIMIT = 20.0

Figures = Mapping[str, float | None]
Watch = Callable[[Progress], None]


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
    """The measurement of one server under one load.

    :ivar size: of the load: streams, connections, or WebSockets.
    :ivar figures: by column name; ``None`` for figures that do not exist or could not be measured.
    :ivar whole: the number of streams or turns that arrived exactly as sent.
    :ivar failures: the reasons why others failed, with their counts.
    :ivar busy: the fraction of a CPU used by the busiest process of generator and upstream.
    """

    server: str
    size: int
    figures: Figures
    whole: int
    failures: Mapping[str, int]
    busy: float


class Meter:
    """Measures one running server. Warms it up first, to know its memory without a load.

    :param warm_up_seconds: how long each of the two loads lasts that warm it up.
    :raises ServerFailed: the server does not respond correctly.
    """

    def __init__(self, server: Server, upstream: Upstream, *, warm_up_seconds: float = WARM_UP_SECONDS) -> None:
        self._server = server
        self._upstream = upstream
        load = Turns(_WARM_UP_CONNECTIONS, warm_up_seconds, _WARM_UP_TIME_LIMIT)
        # Twice: one worker may accept the whole first load, and the other's first request takes memory too.
        for _ in range(2):
            warm_up = self._play(load, lambda progress: None)
            if warm_up.tally.failures:
                reason = next(iter(warm_up.tally.failures))
                raise ServerFailed(f"{server.name} does not work: {reason}\n{server.log_text()}".strip())
        self._idle_memory = server.tree.memory_bytes() if server.tree else 0

    @property
    def name(self) -> str:
        """The server's name."""
        return self._server.name

    def streams(self, scenario: Streams, watch: Watch) -> Measurement:
        """Measure streams or WebSockets, calling ``watch`` with the progress."""
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
        """Measure small turns, calling ``watch`` with the progress."""
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
            # The server may still be recording turns, which is part of their cost.
            time.sleep(_SETTLE_SECONDS)
            taken = tree.cpu_seconds() - cpu
        return _Played(load.tally, taken, max(load.tally.busy, upstream_share / upstream.processes))


@dataclass(frozen=True)
class _Played:
    """The result of a scenario.

    :ivar cpu_seconds: the server's CPU time.
    """

    tally: Tally
    cpu_seconds: float | None
    busy: float

    def cpu_us_for(self, count: int) -> float | None:
        """Return the CPU time divided by ``count``."""
        return None if self.cpu_seconds is None or not count else self.cpu_seconds * 1e6 / count


class _Halfway:
    """Samples of a server while all streams are open.

    :ivar memory: in bytes; ``None`` if the streams were never all open at the same time.
    :ivar cpu_us_per_event: CPU time for events alone, without opening and ending streams.
    """

    def __init__(self, scenario: Streams, tree: ProcessTree | None) -> None:
        self.memory: int | None = None
        self.cpu_us_per_event: float | None = None
        self._streams = len(scenario.starts)
        self._middle = _MIDDLE * self._streams * scenario.events
        self._tree = tree
        self._opened: tuple[float, int] | None = None

    def see(self, progress: Progress) -> None:
        """Take a sample if it is time to."""
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
    """Return the smallest value that ``percent`` percent of all values do not exceed.

    :param ordered: not empty.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


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
        {name: _combined(values, min if name == _MEMORY else statistics.median) for name, values in columns.items()},
        sum(round_.whole for round_ in rounds),
        failures,
        max(round_.busy for round_ in rounds),
    )


def _combined(values: Sequence[float | None], combine: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return combine(known) if len(known) == len(values) else None
