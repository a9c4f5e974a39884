"""The findings of a soak run, and the limits on a worker's resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.soak.client import Row, Tally
from tests.soak.resources import Resources

#: Threads of a worker beyond one per client: four make admission decisions for WebSockets, and some are idle.
EXTRA_THREADS = 12
#: SQLAlchemy's pool keeps five connections. Each SQLite connection uses two descriptors, plus one for all together.
DATABASE_DESCRIPTORS = 11
#: How much a worker may grow between the two inspections, in KiB. In its first two or three minutes under 24 clients it
#: grows by one to three MiB in total, as it creates its threads and fills its caches, and then hardly at all.
GROWTH_KIB = 6 * 1024


@dataclass(frozen=True)
class Lap:
    """The resources of each worker when it was warm, and at the end of the lap."""

    number: int
    warm: tuple[Resources, ...]
    end: tuple[Resources, ...]


@dataclass
class Findings:
    """The results of a run.

    :ivar problems: as sentences; empty if the service has passed.
    :ivar turns: as counted by upstream: transport, status, input tokens.
    :ivar recorded: the turns in the ledger.
    :ivar seconds: since the start.
    """

    tally: Tally
    laps: list[Lap] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    turns: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    recorded: Counter[Row] = field(default_factory=Counter)
    reloads: int = 0
    refreshes: int = 0
    seconds: float = 0.0

    def expect(self, what: str, is_so: object) -> None:
        """Record a problem unless the condition holds."""
        if not is_so:
            self.problems.append(what)


def growth_problems(lap: Lap, *, clients: int) -> Iterator[str]:
    """Yield a problem for each resource that a worker has more of than it should."""
    warm_pids, end_pids = ([each.pid for each in held] for held in (lap.warm, lap.end))
    if warm_pids != end_pids:
        yield f"lap {lap.number}: the workers were {warm_pids} and are {end_pids}"
        return
    for warm, end in zip(lap.warm, lap.end, strict=True):
        where = f"lap {lap.number}, worker {end.pid}"
        if end.memory - warm.memory > GROWTH_KIB:
            yield f"{where}: memory grew by {(end.memory - warm.memory) / 1024:.1f} MiB"
        if end.others > warm.others:
            yield f"{where}: {end.others} descriptors instead of {warm.others}"
        if end.database > DATABASE_DESCRIPTORS:
            yield f"{where}: {end.database} descriptors of the database"
        if end.threads > clients + EXTRA_THREADS:
            yield f"{where}: {end.threads} threads for {clients} clients"
        if end.upstream > clients:
            yield f"{where}: {end.upstream} connections to upstream for {clients} clients"
