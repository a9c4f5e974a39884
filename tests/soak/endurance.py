"""The service under mixed clients for as long as is wanted, and what must not have grown by the end.

The time goes in laps. Each but the first begins with a reload, which meets clients at work. When the new workers are
warm, and again at the end of the lap, clients rest, and what the workers hold is looked at.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocm_wsgi.simulator import Simulator
from tests.conftest import ALICE, BOB, RunningService, start_service
from tests.faults.stack import eventually, workers_of
from tests.soak.findings import Findings, Lap, grown
from tests.soak.holdings import Holdings, holdings_of
from tests.soak.load import Load
from tests.soak.visitor import Row

WORKERS = 2
USERS = {"alice": ALICE, "bob": BOB, "carol": "sk-ocm-carol-0123456789abcdef"}
#: The part of a lap after which workers are warm: they have made their threads and filled their caches.
WARM_UP = 0.5
#: When the owner's access token is withdrawn, in seconds: first, and again and again. One that is younger than 30 s is
#: not renewed: who is refused with it would be refused with the next one too.
FIRST_REFRESH_SECONDS = 5.0
REFRESH_SECONDS = 35.0
#: What is let go of is gone within this time: a client that does not close is waited for for two seconds.
SETTLE_SECONDS = 60.0
_DEFECT = re.compile(r"Traceback|CRITICAL|WORKER TIMEOUT|SIGKILL|SIGABRT")


@dataclass(frozen=True)
class Plan:
    """How much of it.

    :ivar seconds: of work; what checks take is on top.
    """

    seconds: float
    laps: int
    clients: int
    seed: int


#: Told of the progress, every second.
Watch = Callable[[Findings], None]


def run(plan: Plan, folder: Path, watch: Watch) -> Findings:
    """Let it run to its end, or to the first ``KeyboardInterrupt``, and look at what is left.

    :param folder: an empty one.
    """
    with (
        Simulator() as simulator,
        start_service(
            simulator,
            folder / "service",
            workers=WORKERS,
            users=USERS,
            environment={"HOME": str(folder)},
            usages_path=str(folder / "usages.json"),
        ) as running,
        Load(running.address, USERS, clients=plan.clients, seed=plan.seed) as load,
    ):
        soak = _Soak(plan, running, load, watch)
        soak.run()
        soak.finish()
    return soak.findings


class _Soak:
    def __init__(self, plan: Plan, running: RunningService, load: Load, watch: Watch) -> None:
        self.findings = Findings(load.tally)
        self._plan = plan
        self._running = running
        self._simulator = running.simulator
        self._load = load
        self._watch = watch
        self._refresh_at = FIRST_REFRESH_SECONDS
        self._began = time.monotonic()

    def run(self) -> None:
        """Go round, until the end or Ctrl-C."""
        if not eventually(lambda: len(workers_of(self._running)) == WORKERS):
            raise RuntimeError(f"The service did not start:\n{self._running.log_text()}")
        try:
            for number in range(1, self._plan.laps + 1):
                self._lap(number)
        except KeyboardInterrupt:
            pass  # What was measured so far is told.

    def finish(self) -> None:
        """Let everything go, and look at what is left."""
        self._look("at the end")
        self._check_ledger()
        self.findings.expect("the service did not end well", self._running.stop() == 0)
        gone = self._simulator.wait_for(lambda: self._simulator.open_connections == 0)
        self.findings.expect("connections to upstream were left when the service had ended", gone)
        for line in self._running.log_text().splitlines():
            self.findings.expect(f"the log says: {line}", not _DEFECT.search(line))
        self.findings.expect("no turn was taken", self.findings.turns)
        self.findings.problems += self.findings.tally.failures

    def _lap(self, number: int) -> None:
        seconds = self._plan.seconds / self._plan.laps
        self._load.work()
        if number > 1:
            self._reload()
        self._work(seconds * WARM_UP)
        warm = self._look(f"lap {number}, warm")
        self._load.work()
        try:
            self._work(seconds * (1 - WARM_UP))
        finally:  # Also at Ctrl-C.
            lap = Lap(number, warm, self._look(f"lap {number}, at its end"))
            self.findings.laps.append(lap)
            self.findings.problems += grown(lap, clients=self._plan.clients)

    def _reload(self) -> None:
        before = set(workers_of(self._running))
        self._running.process.send_signal(signal.SIGHUP)
        self.findings.reloads += 1
        renewed = eventually(lambda: len(set(workers_of(self._running)) - before) == WORKERS)
        self.findings.expect("no new workers came after a reload", renewed)

    def _work(self, seconds: float) -> None:
        """Let clients come for a while, and the owner's access token end now and then."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            threading.Event().wait(min(left, 1.0))
            self.findings.seconds = time.monotonic() - self._began
            if self.findings.seconds > self._refresh_at:
                self._refresh_at += REFRESH_SECONDS
                self._simulator.expire()
            self._watch(self.findings)

    def _look(self, when: str) -> tuple[Holdings, ...]:
        """Let clients rest, check that nothing is left open, and tell what each worker holds."""
        self.findings.expect(f"{when}: clients did not end", self._load.rest())
        if not eventually(self._is_settled, seconds=SETTLE_SECONDS):
            self.findings.problems.append(f"{when}: {self._what_is_open()}")
        self._collect()
        return self._holdings()

    def _holdings(self) -> tuple[Holdings, ...]:
        port, upstream_port = (int(url.rpartition(":")[2]) for url in (self._running.url, self._simulator.url))
        held = []
        for pid in sorted(workers_of(self._running)):
            with suppress(OSError):  # Old workers end when their last client has left.
                held.append(holdings_of(pid, port=port, upstream_port=upstream_port))
        return tuple(held)

    def _is_settled(self) -> bool:
        """Whether no client is connected, and upstream serves nobody: what is open there waits in a worker's pool."""
        held = self._holdings()
        return (
            len(held) == WORKERS
            and not any(each.clients for each in held)
            and self._simulator.open_streams == 0
            and self._simulator.open_connections == sum(each.upstream for each in held)
        )

    def _what_is_open(self) -> str:
        held = self._holdings()
        return (
            f"{len(held)} workers, {sum(each.clients for each in held)} connections to clients, "
            f"{sum(each.upstream for each in held)} to upstream, which has {self._simulator.open_connections} and "
            f"sends {self._simulator.open_streams} responses"
        )

    def _collect(self) -> None:
        """Take over what upstream has seen, so that it need not remember it."""
        self.findings.turns += Counter((t.transport, t.status, t.input_tokens) for t in self._simulator.turns)
        refreshes = Counter(refresh.outcome for refresh in self._simulator.refreshes)
        self.findings.refreshes += refreshes.pop("rotated", 0)
        self.findings.expect(f"refresh tokens were refused: {dict(refreshes)}", not refreshes)
        self._simulator.clear()

    def _check_ledger(self) -> None:
        findings = self.findings
        owed = Counter(findings.tally.rows)
        # A turn that was cut is recorded a moment after its client knows.
        eventually(lambda: _rows(self._running.state_path).total() >= owed.total(), seconds=SETTLE_SECONDS)
        findings.recorded = _rows(self._running.state_path)
        findings.expect(f"the ledger lacks {_some(owed - findings.recorded)}", not owed - findings.recorded)
        findings.expect(f"the ledger has also {_some(findings.recorded - owed)}", not findings.recorded - owed)
        seen = _as_upstream(findings.recorded)
        findings.expect(f"upstream has seen also {_some(findings.turns - seen)}", not findings.turns - seen)
        findings.expect(f"upstream has not seen {_some(seen - findings.turns)}", not seen - findings.turns)


def _rows(state_path: Path) -> Counter[Row]:
    """What the ledger holds."""
    if not (state_path / "ocm.db").exists():
        return Counter()
    query = 'SELECT "user", transport, status, input_tokens FROM turn'
    with closing(sqlite3.connect(f"file:{state_path / 'ocm.db'}?mode=ro", uri=True)) as connection:
        return Counter(Row(*row) for row in connection.execute(query))


def _as_upstream(rows: Counter[Row]) -> Counter[tuple[str, str, int]]:
    """Tell of the same turns as the simulator does, which counts no errors as turns and knows no users."""
    counted: Counter[tuple[str, str, int]] = Counter()
    for row, count in rows.items():
        if row.status != "error":
            counted[row.transport, row.status, row.input_tokens or 0] += count
    return counted


def _some(rows: Counter[Any]) -> str:
    return f"{rows.total()} turns, such as {json.dumps(list(rows)[:3])}"
