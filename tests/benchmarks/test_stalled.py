"""The benchmark of stalled clients measures what it claims. No times are asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_stalled_benchmark_runs() -> None:
    """Streams are measured alone, beside stalled readers and beside half requests, and all are complete."""
    command = [sys.executable, "-m", "benchmarks.stalled", "--clients", "2", "--events", "10", "--rounds", "1"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    *_, alone, stalled, half = run.stdout.splitlines()
    assert [line.split()[-1] for line in (alone, stalled, half)] == ["100"] * 3
    assert (alone.split()[0], "stopped reading" in stalled, "half a request" in half) == ("nobody", True, True)
