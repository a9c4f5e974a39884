"""Runs the service under mixed clients for a given time, and checks for losses and leaks.

The run is divided into laps. Each but the first begins with a reload while clients are active. When the new workers
are warm, and again at the end of the lap, the clients pause and the workers' resources are inspected.
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
from tests.soak.client import Row
from tests.soak.findings import Findings, Lap, growth_problems
from tests.soak.load import Load
from tests.soak.resources import Resources, resources_of

WORKERS = 2
USERS = {"alice": ALICE, "bob": BOB, "carol": "sk-ocm-carol-0123456789abcdef"}
#: The fraction of a lap after which workers are warm: they have created their threads and filled their caches.
WARM_UP = 0.5
#: When the owner's access token is revoked, in seconds: the first time, and the interval after that. A token younger
#: than 30 s is not refreshed: a client that is refused with it would be refused with the next one too.
FIRST_REFRESH_SECONDS = 5.0
REFRESH_SECONDS = 35.0
#: The time in which connections must be released: the service waits two seconds for a client that does not close.
SETTLE_SECONDS = 60.0
_DEFECT = re.compile(r"Traceback|CRITICAL|WORKER TIMEOUT|SIGKILL|SIGABRT")


@dataclass(frozen=True)
class Plan:
    """The parameters of a run.

    :ivar seconds: the time under load; checks take additional time.
    """

    seconds: float
    laps: int
    clients: int
    seed: int


#: Called with the findings every second.
OnProgress = Callable[[Findings], None]


def run(plan: Plan, folder: Path, on_progress: OnProgress) -> Findings:
    """Run until the end or the first ``KeyboardInterrupt``, and check what is left.

    :param folder: an empty folder.
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
        soak = _Soak(plan, running, load, on_progress)
        soak.run()
        soak.finish()
    return soak.findings


class _Soak:
    def __init__(self, plan: Plan, running: RunningService, load: Load, on_progress: OnProgress) -> None:
        self.findings = Findings(load.tally)
        self._plan = plan
        self._running = running
        self._simulator = running.simulator
        self._load = load
        self._on_progress = on_progress
        self._refresh_at = FIRST_REFRESH_SECONDS
        self._began = time.monotonic()

    def run(self) -> None:
        """Run all laps, or until Ctrl-C."""
        if not eventually(lambda: len(workers_of(self._running)) == WORKERS):
            raise RuntimeError(f"The service did not start:\n{self._running.log_text()}")
        try:
            for number in range(1, self._plan.laps + 1):
                self._lap(number)
        except KeyboardInterrupt:
            pass  # The findings so far are still reported.

    def finish(self) -> None:
        """Stop the load and the service, and check what is left."""
        self._inspect("at the end")
        self._check_ledger()
        self.findings.expect("the service did not stop cleanly", self._running.stop() == 0)
        gone = self._simulator.wait_for(lambda: self._simulator.open_connections == 0)
        self.findings.expect("connections to upstream were left open after the service had stopped", gone)
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
        warm = self._inspect(f"lap {number}, warm")
        self._load.work()
        try:
            self._work(seconds * (1 - WARM_UP))
        finally:  # Also on Ctrl-C.
            lap = Lap(number, warm, self._inspect(f"lap {number}, at its end"))
            self.findings.laps.append(lap)
            self.findings.problems += growth_problems(lap, clients=self._plan.clients)

    def _reload(self) -> None:
        before = set(workers_of(self._running))
        self._running.process.send_signal(signal.SIGHUP)
        self.findings.reloads += 1
        have_started = eventually(lambda: len(set(workers_of(self._running)) - before) == WORKERS)
        self.findings.expect("no new workers started after a reload", have_started)

    def _work(self, seconds: float) -> None:
        """Keep the clients active for a while, and revoke the owner's access token at intervals."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            threading.Event().wait(min(left, 1.0))
            self.findings.seconds = time.monotonic() - self._began
            if self.findings.seconds > self._refresh_at:
                self._refresh_at += REFRESH_SECONDS
                self._simulator.expire()
            self._on_progress(self.findings)

    def _inspect(self, when: str) -> tuple[Resources, ...]:
        """Pause the clients, check that nothing is left open, and return each worker's resources."""
        self.findings.expect(f"{when}: clients did not finish", self._load.pause())
        if not eventually(self._is_settled, seconds=SETTLE_SECONDS):
            self.findings.problems.append(f"{when}: {self._open_connections()}")
        self._collect()
        return self._resources()

    def _resources(self) -> tuple[Resources, ...]:
        port, upstream_port = (int(url.rpartition(":")[2]) for url in (self._running.url, self._simulator.url))
        held = []
        for pid in sorted(workers_of(self._running)):
            with suppress(OSError):  # Old workers exit when their last client has disconnected.
                held.append(resources_of(pid, port=port, upstream_port=upstream_port))
        return tuple(held)

    def _is_settled(self) -> bool:
        """Return whether no client is connected, and all upstream connections are idle in a worker's pool."""
        held = self._resources()
        return (
            len(held) == WORKERS
            and not any(each.clients for each in held)
            and self._simulator.open_streams == 0
            and self._simulator.open_connections == sum(each.upstream for each in held)
        )

    def _open_connections(self) -> str:
        held = self._resources()
        return (
            f"{len(held)} workers, {sum(each.clients for each in held)} connections to clients, "
            f"{sum(each.upstream for each in held)} to upstream, which has {self._simulator.open_connections} and "
            f"sends {self._simulator.open_streams} responses"
        )

    def _collect(self) -> None:
        """Collect what upstream has seen, and clear its log."""
        self.findings.turns += Counter((t.transport, t.status, t.input_tokens) for t in self._simulator.turns)
        refreshes = Counter(refresh.outcome for refresh in self._simulator.refreshes)
        self.findings.refreshes += refreshes.pop("rotated", 0)
        self.findings.expect(f"refresh tokens were refused: {dict(refreshes)}", not refreshes)
        self._simulator.clear()

    def _check_ledger(self) -> None:
        findings = self.findings
        expected = Counter(findings.tally.rows)
        # A turn that was cut off is recorded shortly after its client sees it.
        eventually(lambda: _rows(self._running.state_path).total() >= expected.total(), seconds=SETTLE_SECONDS)
        findings.recorded = _rows(self._running.state_path)
        findings.expect(f"the ledger lacks {_sample(expected - findings.recorded)}", not expected - findings.recorded)
        findings.expect(
            f"the ledger unexpectedly has {_sample(findings.recorded - expected)}", not findings.recorded - expected
        )
        seen = _as_seen_upstream(findings.recorded)
        findings.expect(f"upstream has unexpectedly seen {_sample(findings.turns - seen)}", not findings.turns - seen)
        findings.expect(f"upstream has not seen {_sample(seen - findings.turns)}", not seen - findings.turns)


def _rows(state_path: Path) -> Counter[Row]:
    """Return the turns in the ledger, without those whose client left before upstream had responded.

    Whether such a request reached upstream, and so is a turn, only chance decides.
    """
    if not (state_path / "ocm.db").exists():
        return Counter()
    query = (
        'SELECT "user", transport, status, CASE WHEN estimated THEN NULL ELSE input_tokens END FROM turn'
        " WHERE NOT (transport = 'json' AND status = 'cut' AND estimated)"
    )
    with closing(sqlite3.connect(f"file:{state_path / 'ocm.db'}?mode=ro", uri=True)) as connection:
        return Counter(Row(*row) for row in connection.execute(query))


def _as_seen_upstream(rows: Counter[Row]) -> Counter[tuple[str, str, int]]:
    """Convert to the simulator's format, which does not count errors as turns and has no users."""
    counted: Counter[tuple[str, str, int]] = Counter()
    for row, count in rows.items():
        if row.status != "error":
            counted[row.transport, row.status, row.input_tokens or 0] += count
    return counted


def _sample(rows: Counter[Any]) -> str:
    return f"{rows.total()} turns, such as {json.dumps(list(rows)[:3])}"
