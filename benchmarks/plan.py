"""The plan of a run: its measurements and their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import chatmock, nginx, service, wire
from benchmarks.certificates import write_certificate
from benchmarks.load import STREAMS_PER_PROCESS, Sockets, Streams, Turns
from benchmarks.measures import (
    SOCKET_COLUMNS,
    STREAM_COLUMNS,
    TURN_COLUMNS,
    Column,
    Measurement,
    Meter,
    Watch,
    median,
)
from benchmarks.others import Other
from benchmarks.report import Section
from benchmarks.servers import Server, ServerFailed, Upstream, direct, run_upstream
from benchmarks.status import Status
from benchmarks.tally import Progress

# Streams started per second: with 2,000, all are open before the first of the default length ends.
_STARTS_PER_SECOND = 300
_SERVERS = 3  # direct, nginx, the service
# A load that takes this much longer than necessary is aborted.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """The measurements of a run.

    :ivar streams: the numbers of concurrent streams, one load each.
    :ivar sockets: the numbers of concurrent WebSockets, one load each.
    :ivar events: the number of events of each stream and socket.
    :ivar rate: the rate of each stream and socket, in events per second.
    :ivar connections: of small turns, one load each.
    :ivar turn_seconds: the duration of loads of small turns.
    :ivar warm_up_seconds: the duration of each load that warms a server up.
    :ivar rounds: the number of repetitions; the figures are medians.
    :ivar tls: upstream speaks it.
    :ivar others: other programs to measure.
    """

    streams: Sequence[int]
    sockets: Sequence[int]
    events: int
    rate: float
    connections: Sequence[int]
    turn_seconds: float
    warm_up_seconds: float
    rounds: int
    tls: bool
    others: Sequence[Other] = ()

    def kinds(self) -> list[_Kind]:
        """Return the requested kinds of loads."""
        kinds = [
            _Kind(
                "streams",
                "streams",
                f"Streams of {self._pace('events')}",
                STREAM_COLUMNS,
                self.streams,
                self.others,
                self._streams,
            ),
            _Kind(
                "sockets",
                "sockets",
                f"WebSockets with a turn of {self._pace('messages')}, uncompressed",
                SOCKET_COLUMNS,
                self.sockets,
                (),  # They rewrite messages, which this upstream does not accept.
                self._sockets,
            ),
            _Kind(
                "turns",
                "connections",
                "Small turns, not streamed, one after another over each connection",
                TURN_COLUMNS,
                self.connections,
                self.others,
                self._turns,
            ),
        ]
        return [kind for kind in kinds if kind.sizes]

    def most_at_once(self) -> int:
        """Return the number of connections of the largest load."""
        return max(size for kind in self.kinds() for size in kind.sizes)

    def _pace(self, events: str) -> str:
        transport = "TLS" if self.tls else "plain"
        return f"{self.events:,} {events} of {wire.EVENT_BYTES} B, {self.rate:g} a second each, {transport} upstream"

    def _streams(self, count: int, meter: Meter, watch: Watch) -> Measurement:
        starts = [i / _STARTS_PER_SECOND for i in range(count)]
        return meter.streams(Streams(starts, self.events, self.rate, self._time_limit(starts)), watch)

    def _sockets(self, count: int, meter: Meter, watch: Watch) -> Measurement:
        starts = [i / _STARTS_PER_SECOND for i in range(count)]
        return meter.streams(Sockets(starts, self.events, self.rate, self._time_limit(starts)), watch)

    def _time_limit(self, starts: Sequence[float]) -> float:
        return 2 * (starts[-1] + self.events / self.rate) + _GRACE_SECONDS

    def _turns(self, connections: int, meter: Meter, watch: Watch) -> Measurement:
        return meter.turns(Turns(connections, self.turn_seconds, self.turn_seconds + _GRACE_SECONDS), watch)


@dataclass(frozen=True)
class _Kind:
    """A kind of load, in several sizes.

    :ivar counted: the unit of the size.
    :ivar others: the other programs that are measured.
    """

    name: str
    counted: str
    title: str
    columns: Sequence[Column]
    sizes: Sequence[int]
    others: Sequence[Other]
    measure: Callable[[int, Meter, Watch], Measurement]


def run(plan: Plan, folder: Path) -> list[Section]:
    """Start everything, measure, and stop everything.

    :param folder: an empty folder for the servers' files.
    :raises ServerFailed: a server cannot be measured.
    """
    kinds = plan.kinds()
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(_upstream(plan, folder))
        steps = sum((_SERVERS + len(kind.others)) * (1 + plan.rounds * len(kind.sizes)) for kind in kinds)
        status = running.enter_context(Status(steps))
        return [_section(kind, plan, upstream, _new(folder / kind.name), status) for kind in kinds]


def _upstream(plan: Plan, folder: Path) -> contextlib.AbstractContextManager[Upstream]:
    processes = -(-plan.most_at_once() // STREAMS_PER_PROCESS)
    certificate = write_certificate(_new(folder / "upstream"), chatmock.HOST)
    return run_upstream(
        processes=processes,
        certificate=certificate if plan.tls else None,
        tunnels=certificate if plan.others else None,
    )


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _section(kind: _Kind, plan: Plan, upstream: Upstream, folder: Path, status: Status) -> Section:
    """Measure one kind of load on newly started servers, as they would retain the memory of other loads."""
    missing: list[str] = []
    with contextlib.ExitStack() as running:
        relay = running.enter_context(nginx.run_nginx(upstream, _new(folder / nginx.NAME)))
        subject = running.enter_context(service.run_service(upstream, _new(folder / service.NAME)))

        def warm(server: Server) -> Meter:
            return Meter(server, upstream, warm_up_seconds=plan.warm_up_seconds)

        meters = []
        for server in (direct(upstream), relay):
            status.next_step(f"{server.name}: starting")
            meters.append(warm(server))
        for other in kind.others:
            try:
                status.next_step(f"{other.kind.name}: starting")
                meters.append(_start_other(other, upstream, _new(folder / other.kind.name), warm, running))
            except ServerFailed as exc:
                missing.append(f"not measured: {exc}")
        # Last, because its idle memory is unknown until all its workers have started.
        status.next_step(f"{subject.name}: starting")
        meters.append(warm(subject))
        measured = [_round(kind, meters, status) for _ in range(plan.rounds)]
    title = f"{kind.title}; medians of {plan.rounds} rounds" if plan.rounds > 1 else kind.title
    return Section(
        kind.name, title, kind.counted, kind.columns, [median(same) for same in zip(*measured, strict=True)], missing
    )


def _start_other(
    other: Other,
    upstream: Upstream,
    folder: Path,
    warm: Callable[[Server], Meter],
    running: contextlib.ExitStack,
) -> Meter:
    """Start and warm up a program that may fail, and stop it if it does."""
    with contextlib.ExitStack() as starting:
        meter = warm(starting.enter_context(other.run(upstream, folder)))
        running.enter_context(starting.pop_all())
    return meter


def _round(kind: _Kind, meters: Sequence[Meter], status: Status) -> list[Measurement]:
    """Measure each size on one server after another, so that changes on the machine affect all of them."""
    return [_measure(kind, size, meter, status) for size in kind.sizes for meter in meters]


def _measure(kind: _Kind, size: int, meter: Meter, status: Status) -> Measurement:
    status.next_step(f"{meter.name}: {size:,} {kind.counted}")

    def watch(progress: Progress) -> None:
        status.detail(f"{progress.events:,} events, {progress.ended:,} whole, {progress.failed:,} failed")

    return kind.measure(size, meter, watch)
