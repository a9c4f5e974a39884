"""``make soak``, or ``python -m tests.soak``: the real service under mixed clients, faults and reloads."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from tests.soak.endurance import Plan, run
from tests.soak.findings import Findings
from tests.soak.report import lines_of

#: The interval between progress reports without a terminal, in seconds.
REPORT_SECONDS = 30.0
_CLEAR_LINE = "\r\033[K"


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Duration.")
@click.option(
    "--laps",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Laps, with a reload between them.",
)
@click.option("--clients", type=click.IntRange(1), default=24, show_default=True, help="Concurrent clients.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed for the clients' random choices.")
def main(minutes: float, laps: int, clients: int, seed: int) -> None:
    """Expose the service to mixed clients, faults, credential refreshes and reloads, and check for losses and leaks.

    Ctrl-C ends the run and reports what was found so far. docs/soak.md describes the checks.
    """
    seconds = minutes * 60
    click.echo(f"{clients} clients, {laps} laps of {seconds / laps:.0f} s with a reload between. Ctrl-C ends it.")
    with tempfile.TemporaryDirectory(prefix="ocm-soak-") as folder:
        progress = _Progress(seconds)
        findings = run(Plan(seconds, laps, clients, seed), Path(folder), progress)
        progress.clear()
    for line in lines_of(findings):
        click.echo(line)
    sys.exit(1 if findings.problems else 0)


class _Progress:
    """Shows progress on one line of a terminal, or else logs a line at intervals."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_terminal = sys.stderr.isatty()
        self._reported = 0.0

    def __call__(self, findings: Findings) -> None:
        if not self._is_terminal and findings.seconds - self._reported < REPORT_SECONDS:
            return
        self._reported = findings.seconds
        problems = len(findings.problems) + len(findings.tally.failures)
        text = (
            f"{findings.seconds:.0f} of {self._seconds:.0f} s: {len(findings.tally.actions):,} actions, "
            f"{len(findings.tally.rows):,} turns, {findings.reloads} reloads, {problems} problems"
        )
        click.echo(f"{_CLEAR_LINE}{text}" if self._is_terminal else text, err=True, nl=not self._is_terminal)

    def clear(self) -> None:
        """Clear the progress line before the findings are printed."""
        if self._is_terminal:
            click.echo(_CLEAR_LINE, err=True, nl=False)


if __name__ == "__main__":
    main()
