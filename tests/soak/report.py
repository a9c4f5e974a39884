"""The findings as human-readable lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tests.soak.findings import Findings
from tests.soak.resources import Resources

#: Further problems usually repeat the same ones.
MAX_PROBLEMS = 40
# Headings and widths.
_COLUMNS = {
    "lap": 3,
    "worker": 7,
    "threads": 11,
    "descriptors": 11,
    "database": 9,
    "to upstream": 11,
    "memory, MiB": 15,
    "grown by": 8,
}


def lines_of(findings: Findings) -> Iterator[str]:
    """Yield the report: each worker when warm and at the end of its lap, the turns, and the problems."""
    yield _row(_COLUMNS)
    for lap in findings.laps:
        for warm, end in zip(lap.warm, lap.end, strict=False):
            yield _line(lap.number, warm, end)
    statuses = Counter[str]()
    for row, count in findings.recorded.items():
        statuses[f"{row.transport} {row.status}"] += count
    actions = findings.tally.action_counts()
    yield ""
    yield f"{actions.total():,} actions in {findings.seconds:.0f} s: {_counts(actions)}"
    yield f"{statuses.total():,} turns in the ledger: {_counts(statuses)}"
    yield f"{findings.reloads} reloads, {findings.refreshes} credential refreshes"
    yield ""
    if not findings.problems:
        yield "Every turn was recorded exactly once, and nothing was leaked."
        return
    yield f"{len(findings.problems)} problems:"
    yield from (f"  {problem[:500]}" for problem in findings.problems[:MAX_PROBLEMS])


def _line(lap: int, warm: Resources, end: Resources) -> str:
    return _row(
        [
            f"{lap}",
            f"{end.pid}",
            f"{warm.threads} → {end.threads}",
            f"{warm.others} → {end.others}",
            f"{warm.database} → {end.database}",
            f"{warm.upstream} → {end.upstream}",
            f"{warm.memory / 1024:.1f} → {end.memory / 1024:.1f}",
            f"{(end.memory - warm.memory) / 1024:.1f}",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda each: -each[1]))
