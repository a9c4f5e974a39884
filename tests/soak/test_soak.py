"""A short soak run, with the code of ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.actions import ACTIONS
from tests.soak.endurance import Plan, run
from tests.soak.findings import Findings
from tests.soak.report import lines_of


@pytest.mark.slow
def test_nothing_is_lost_or_leaked(tmp_path: Path) -> None:
    """After mixed clients, faults, a refresh and a reload each turn is recorded once and nothing is leaked."""
    reported: list[float] = []

    def on_progress(findings: Findings) -> None:
        reported.append(findings.seconds)

    findings = run(Plan(seconds=10, laps=2, clients=16, seed=1), tmp_path, on_progress)
    assert not findings.problems, "\n".join(lines_of(findings))
    assert (findings.reloads, len(findings.laps)) == (1, 2)
    assert findings.refreshes >= 1
    assert set(findings.tally.actions) == {action.__name__ for action in ACTIONS}
    assert reported == sorted(reported)
    assert "Every turn was recorded exactly once" in "\n".join(lines_of(findings))
