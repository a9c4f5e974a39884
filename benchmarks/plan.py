"""The plan of a run: its measurements and their order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import chatmock, nginx, service
from benchmarks.certificates import write_certificate
from benchmarks.figures import Measurement, median
from benchmarks.kinds import Kind, Loads
from benchmarks.load import Generator
from benchmarks.measures import Meter
from benchmarks.others import Other
from benchmarks.report import Section
from benchmarks.scenarios import STREAMS_PER_PROCESS
from benchmarks.servers import DIRECT, Server, ServerFailed, Upstream, direct, run_upstream
from benchmarks.status import Status
from benchmarks.tally import Progress

_SERVERS = 3  # direct, nginx, the service


@dataclass(frozen=True)
class Plan:
    """The measurements of a run.

    :ivar plain: the kinds of loads measured with a plain upstream.
    :ivar tls: the kinds measured with an upstream that uses TLS.
    :ivar warm_up_seconds: the duration of each load that warms a server up.
    :ivar rounds: the number of repetitions; the figures are medians.
    :ivar shares_servers: whether all kinds of loads are measured on the same servers. They retain memory of earlier
        loads, but need not be started again.
    :ivar others: other programs to measure.
    """

    loads: Loads
    plain: Sequence[str]
    tls: Sequence[str]
    warm_up_seconds: float
    rounds: int
    shares_servers: bool
    others: Sequence[Other] = ()

    def groups(self) -> list[Group]:
        """Return all loads, in groups that are measured on the same servers."""
        groups = []
        for is_tls, names in ((False, self.plain), (True, self.tls)):
            kinds = self.loads.kinds(names, "TLS" if is_tls else "plain", self.others)
            if self.shares_servers:
                groups += [Group(is_tls, kinds)] if kinds else []
            else:
                groups += [Group(is_tls, [kind]) for kind in kinds]
        return groups


@dataclass(frozen=True)
class Group:
    """Loads that are measured on the same servers."""

    is_tls: bool
    kinds: Sequence[Kind]

    @property
    def others(self) -> Sequence[Other]:
        """The other programs that at least one of the loads measures."""
        return list(dict.fromkeys(other for kind in self.kinds for other in kind.others))

    def steps(self, rounds: int) -> int:
        """Return the number of steps that are shown."""
        loads = sum(len(kind.sizes) * (1 + rounds * (_SERVERS - 1 + len(kind.others))) for kind in self.kinds)
        return _SERVERS + len(self.others) + loads


def run(plan: Plan, folder: Path) -> list[Section]:
    """Start everything, measure, and stop everything.

    :param folder: an empty folder for the servers' files.
    :raises ServerFailed: a server cannot be measured.
    """
    groups = plan.groups()
    with Generator() as generator, Status(sum(group.steps(plan.rounds) for group in groups)) as status:
        sections = []
        for index, group in enumerate(groups):
            sections += _Run(plan, group, _new(folder / str(index)), generator, status).sections()
    return sections


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@dataclass(frozen=True)
class _Run:
    """The measurements of a group."""

    plan: Plan
    group: Group
    folder: Path
    generator: Generator
    status: Status

    def sections(self) -> list[Section]:
        """Measure on newly started servers, as they would retain the memory of other loads."""
        with contextlib.ExitStack() as running:
            upstream = running.enter_context(self._upstream())
            relay = running.enter_context(nginx.run_nginx(upstream, _new(self.folder / nginx.NAME)))
            subject = running.enter_context(service.run_service(upstream, _new(self.folder / service.NAME)))
            meters = [self._warm(server, upstream) for server in (direct(upstream), relay)]
            missing: list[str] = []
            for other in self.group.others:
                try:
                    meters.append(self._start_other(other, upstream, running))
                except ServerFailed as exc:
                    missing.append(f"not measured: {exc}")
            # Last, because its idle memory is unknown until all its workers have started.
            meters.append(self._warm(subject, upstream))
            return [self._section(kind, meters, missing) for kind in self.group.kinds]

    def _upstream(self) -> contextlib.AbstractContextManager[Upstream]:
        processes = -(-self.plan.loads.most_at_once() // STREAMS_PER_PROCESS)
        certificate = write_certificate(_new(self.folder / "upstream"), chatmock.HOST)
        return run_upstream(
            processes=processes,
            certificate=certificate if self.group.is_tls else None,
            tunnels=certificate if self.plan.others else None,
        )

    def _warm(self, server: Server, upstream: Upstream) -> Meter:
        self.status.next_step(f"{server.name}: starting")
        return Meter(server, upstream, self.generator, warm_up_seconds=self.plan.warm_up_seconds)

    def _start_other(self, other: Other, upstream: Upstream, running: contextlib.ExitStack) -> Meter:
        """Start and warm up a program that may fail, and stop it if it does."""
        with contextlib.ExitStack() as starting:
            server = starting.enter_context(other.run(upstream, _new(self.folder / other.kind.name)))
            meter = self._warm(server, upstream)
            running.enter_context(starting.pop_all())
        return meter

    def _section(self, kind: Kind, meters: Sequence[Meter], missing: Sequence[str]) -> Section:
        names = {nginx.NAME, service.NAME, *(other.kind.name for other in kind.others)}
        measured: dict[tuple[int, str], list[Measurement]] = {}
        for index in range(self.plan.rounds):
            # Requests without a server in between show the share of upstream and of the generator, once.
            used = [meter for meter in meters if meter.name in names or (index == 0 and meter.name == DIRECT)]
            for measurement in self._round(kind, used):
                measured.setdefault((measurement.size, measurement.server), []).append(measurement)
        return Section(kind, self.group.is_tls, self.plan.rounds, [median(same) for same in measured.values()], missing)

    def _round(self, kind: Kind, meters: Sequence[Meter]) -> list[Measurement]:
        """Measure each size on one server after another, so that changes on the machine affect all of them."""
        return [self._measure(kind, size, meter) for size in kind.sizes for meter in meters]

    def _measure(self, kind: Kind, size: int, meter: Meter) -> Measurement:
        self.status.next_step(f"{meter.name}: {kind.label(size)}")

        def watch(progress: Progress) -> None:
            self.status.detail(f"{progress.events:,} events, {progress.ended:,} whole, {progress.failed:,} failed")

        return kind.measure(size, meter, watch)
