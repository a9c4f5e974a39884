"""The benchmark of nginx in front: a run measures both paths completely. No times are asserted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


def test_run() -> None:
    """A run prints the figures of direct access, of nginx, and the difference, for streams and WebSockets."""
    options = ["--count", "3", "--events", "5", "--rate", "100", "--rounds", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.nginx_front", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    rows = [line.split()[-5:] for line in run.stdout.splitlines()]
    numbers = [[float(cell) for cell in row[1:]] for row in rows if row and row[0] in {"straight", "nginx", "added"}]
    assert len(numbers) == 2 * 3
    for straight, front, added in (numbers[:3], numbers[3:]):
        assert min(*straight, *front) > 0
        differences = [more - less for less, more in zip(straight, front, strict=True)]
        assert added == pytest.approx(differences, abs=0.011)  # each of the three is rounded to 0.01
    assert "failed" not in run.stdout
