"""Measures a server's CPU time, memory and latency under a load."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import MEMORY, Figures, Measurement, times
from benchmarks.load import Generator
from benchmarks.processes import ProcessTree
from benchmarks.scenarios import Arrivals, Scenario, Streams, Turns
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

Watch = Callable[[Progress], None]


class Meter:
    """Measures one running server. Warms it up first, to know its memory without a load.

    :param warm_up_seconds: how long each of the two loads lasts that warm it up.
    :raises ServerFailed: the server does not respond correctly.
    """

    def __init__(
        self,
        server: Server,
        upstream: Upstream,
        generator: Generator,
        *,
        warm_up_seconds: float = WARM_UP_SECONDS,
    ) -> None:
        self._server = server
        self._upstream = upstream
        self._generator = generator
        load = Turns(_WARM_UP_CONNECTIONS, warm_up_seconds, _WARM_UP_TIME_LIMIT)
        # Twice: one worker may accept the whole first load, and the other's first request takes memory too.
        for _ in range(2):
            warm_up = generator.play(server.target, load).wait()
            if warm_up.failures:
                reason = next(iter(warm_up.failures))
                raise ServerFailed(f"{server.name} does not work: {reason}\n{server.log_text()}".strip())
        self._idle_memory = server.tree.memory_bytes() if server.tree else 0

    @property
    def name(self) -> str:
        """The server's name."""
        return self._server.name

    def streams(self, size: int, scenario: Streams, watch: Watch) -> Measurement:
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
            MEMORY: memory,
        }
        return self._measurement(size, figures, played)

    def turns(self, size: int, scenario: Turns, watch: Watch) -> Measurement:
        """Measure short turns, calling ``watch`` with the progress."""
        played = self._play(scenario, watch)
        figures = {
            "cpu_us_per_turn": played.cpu_us_for(played.tally.ended),
            "turns_per_second": played.tally.ended / scenario.duration,
            **_times(played.tally),
        }
        return self._measurement(size, figures, played)

    def arrivals(self, size: int, scenario: Arrivals, watch: Watch) -> Measurement:
        """Measure new turns beside open streams, calling ``watch`` with the progress."""
        played = self._play(scenario, watch)
        figures = {
            "cpu_percent": None if played.cpu_seconds is None else 100 * played.cpu_seconds / played.seconds,
            **times("latency", played.tally.latencies),
            **times("turn_first_byte", played.tally.turn_first_bytes),
            **times("quiet_first_byte", played.tally.quiet_first_bytes),
        }
        return self._measurement(size, figures, played)

    def _measurement(self, size: int, figures: Figures, played: _Played) -> Measurement:
        tally = played.tally
        return Measurement(self._server.name, size, figures, tally.ended, dict(tally.failures), played.busy)

    def _play(self, scenario: Scenario, watch: Watch) -> _Played:
        tree, upstream = self._server.tree, self._upstream
        cpu = tree.cpu_seconds() if tree else None
        began, upstream_cpu = time.monotonic(), upstream.tree.cpu_seconds()
        load = self._generator.play(self._server.target, scenario)
        for progress in load.progress():
            watch(progress)
        seconds = time.monotonic() - began
        upstream_share = (upstream.tree.cpu_seconds() - upstream_cpu) / seconds
        taken = None
        if tree is not None and cpu is not None:
            # The server may still be recording turns, which is part of their cost.
            time.sleep(_SETTLE_SECONDS)
            taken = tree.cpu_seconds() - cpu
        return _Played(load.tally, taken, seconds, max(load.tally.busy, upstream_share / upstream.processes))


@dataclass(frozen=True)
class _Played:
    """The result of a scenario.

    :ivar cpu_seconds: the server's CPU time.
    :ivar seconds: how long it took.
    """

    tally: Tally
    cpu_seconds: float | None
    seconds: float
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
    return {**times("latency", tally.latencies), **times("first_byte", tally.first_bytes)}
