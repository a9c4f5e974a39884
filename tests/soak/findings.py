"""What came of an endurance run, and how much of anything a worker may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.soak.holdings import Holdings
from tests.soak.visitor import Row, Tally

#: Threads of a worker that are not there for a request: four decide about WebSockets' turns, some wait to be needed.
OWN_THREADS = 12
#: SQLAlchemy keeps five connections to a database. One to SQLite takes two descriptors, and all together one.
DATABASE_DESCRIPTORS = 11
#: What a worker may grow by between the two looks at it, in KiB. In its first two or three minutes under 24 clients it
#: grows by one to three MiB in all, as it makes its threads and fills its caches, and then hardly any more.
GROWTH_KIB = 6 * 1024


@dataclass(frozen=True)
class Lap:
    """What each worker held when it was warm, and at the end of the lap."""

    number: int
    warm: tuple[Holdings, ...]
    end: tuple[Holdings, ...]


@dataclass
class Findings:
    """What came of it.

    :ivar problems: what should not be, in words. None: the service has stood it.
    :ivar turns: as upstream counts them: transport, status, input tokens.
    :ivar recorded: what the ledger holds.
    :ivar seconds: since the beginning.
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
        """Note a problem, unless it is so."""
        if not is_so:
            self.problems.append(what)


def grown(lap: Lap, *, clients: int) -> Iterator[str]:
    """Tell what a worker holds more of than it should."""
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
        if end.threads > clients + OWN_THREADS:
            yield f"{where}: {end.threads} threads for {clients} clients"
        if end.upstream > clients:
            yield f"{where}: {end.upstream} connections to upstream for {clients} clients"
