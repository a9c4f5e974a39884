"""What one run measures, and in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wire
from benchmarks.certificates import write_certificate
from benchmarks.load import STREAMS_PER_PROCESS, Streams, Turns
from benchmarks.measures import STREAM_COLUMNS, TURN_COLUMNS, Measurement, Meter, median
from benchmarks.nginx import run_nginx
from benchmarks.report import Section
from benchmarks.servers import Server, Upstream, direct, run_upstream
from benchmarks.service import run_service
from benchmarks.status import Status
from benchmarks.tally import Progress

# So many streams begin in a second: 2,000 are all open before the first of usual length ends.
_STARTS_PER_SECOND = 300
# A load that takes so much longer than it has to is given up.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar streams: how many at once, one load each.
    :ivar events: of each stream.
    :ivar rate: of each stream, in events a second.
    :ivar connections: of small turns, one load each.
    :ivar turn_seconds: how long small turns are sent.
    :ivar rounds: how often all is measured; the figures are the medians.
    :ivar tls: upstream speaks it.
    """

    streams: Sequence[int]
    events: int
    rate: float
    connections: Sequence[int]
    turn_seconds: float
    rounds: int
    tls: bool

    def stream_load(self, count: int) -> Streams:
        """Return the load of so many streams."""
        starts = [i / _STARTS_PER_SECOND for i in range(count)]
        return Streams(starts, self.events, self.rate, 2 * (starts[-1] + self.events / self.rate) + _GRACE_SECONDS)

    def turn_load(self, connections: int) -> Turns:
        """Return the load of small turns over so many connections."""
        return Turns(connections, self.turn_seconds, self.turn_seconds + _GRACE_SECONDS)


def run(plan: Plan, folder: Path) -> list[Section]:
    """Start everything, measure, end everything.

    :param folder: an empty one, for what the servers write.
    :raises ServerFailed: one of them cannot be measured.
    """
    loads = len(plan.streams) + len(plan.connections)
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(_upstream(plan, folder))
        servers = [
            direct(upstream),
            running.enter_context(run_nginx(upstream, _new(folder / "nginx"))),
            running.enter_context(run_service(upstream, _new(folder / "service"))),
        ]
        status = running.enter_context(Status(len(servers) * (1 + plan.rounds * loads)))
        meters = [_warm(server, upstream, status) for server in servers]
        rounds = [_round(plan, meters, status) for _ in range(plan.rounds)]
    streams, turns = ([median(same) for same in zip(*kind, strict=True)] for kind in zip(*rounds, strict=True))
    return [
        Section("streams", _streams_title(plan), "streams", STREAM_COLUMNS, streams),
        Section("turns", _turns_title(plan), "connections", TURN_COLUMNS, turns),
    ]


def _upstream(plan: Plan, folder: Path) -> contextlib.AbstractContextManager[Upstream]:
    processes = -(-max(plan.streams) // STREAMS_PER_PROCESS)
    certificate = write_certificate(_new(folder / "upstream")) if plan.tls else None
    return run_upstream(processes=processes, certificate=certificate)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _warm(server: Server, upstream: Upstream, status: Status) -> Meter:
    status.next_step(f"{server.name}: starting")
    return Meter(server, upstream)


def _round(plan: Plan, meters: Sequence[Meter], status: Status) -> tuple[list[Measurement], list[Measurement]]:
    """Measure each load on one server after another, so that what changes on the machine changes for all."""
    streams = [_measure_streams(plan, count, meter, status) for count in plan.streams for meter in meters]
    turns = [_measure_turns(plan, count, meter, status) for count in plan.connections for meter in meters]
    return streams, turns


def _measure_streams(plan: Plan, count: int, meter: Meter, status: Status) -> Measurement:
    total = count * plan.events
    status.next_step(f"{meter.name}: {count:,} streams")

    def watch(progress: Progress) -> None:
        status.detail(f"{progress.events:,} of {total:,} events, {progress.failed:,} failed")

    return meter.streams(plan.stream_load(count), watch)


def _measure_turns(plan: Plan, connections: int, meter: Meter, status: Status) -> Measurement:
    status.next_step(f"{meter.name}: small turns over {connections:,} connections")

    def watch(progress: Progress) -> None:
        status.detail(f"{progress.ended:,} turns, {progress.failed:,} failed")

    return meter.turns(plan.turn_load(connections), watch)


def _streams_title(plan: Plan) -> str:
    transport = "TLS" if plan.tls else "plain"
    return (
        f"Streams of {plan.events:,} events of {wire.EVENT_BYTES} B, {plan.rate:g} a second each, {transport} upstream"
        f"{_rounds_title(plan)}"
    )


def _turns_title(plan: Plan) -> str:
    return f"Small turns, not streamed, one after another over each connection{_rounds_title(plan)}"


def _rounds_title(plan: Plan) -> str:
    return f"; medians of {plan.rounds} rounds" if plan.rounds > 1 else ""
