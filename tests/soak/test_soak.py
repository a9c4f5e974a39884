"""The endurance run in short: the code of ``make soak``, some seconds long."""

from __future__ import annotations

from pathlib import Path

from tests.soak.endurance import Plan, run
from tests.soak.findings import Findings
from tests.soak.report import lines_of
from tests.soak.visits import VISITS


def test_nothing_is_lost_or_left(tmp_path: Path) -> None:
    """After mixed clients, faults, a renewal and a reload each turn is recorded once, and all was let go of."""
    told: list[float] = []

    def watch(findings: Findings) -> None:
        told.append(findings.seconds)

    findings = run(Plan(seconds=10, laps=2, clients=16, seed=1), tmp_path, watch)
    assert not findings.problems, "\n".join(lines_of(findings))
    assert (findings.reloads, len(findings.laps)) == (1, 2)
    assert findings.refreshes >= 1
    assert set(findings.tally.visits) == {visit.__name__ for visit in VISITS}
    assert told == sorted(told)
    assert "Every turn is recorded once" in "\n".join(lines_of(findings))
