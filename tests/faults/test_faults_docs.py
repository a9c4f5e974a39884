"""``docs/reliability.md`` names every fault test, and no other."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs/reliability.md"


def test_every_fault_has_its_line() -> None:
    """The tests of the page's tables are those of this folder, and each has a fault and a promise before it."""
    rows = re.findall(r"^\| (.+) \| (.+) \| `(test_\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert all(fault.strip() and promise.strip() for fault, promise, _ in rows)
    sources = [path.read_text() for path in FOLDER.glob("test_faults_*.py") if path.name != Path(__file__).name]
    written = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert {name for _, _, name in rows} == written


def test_every_line_is_a_row() -> None:
    """No line of a table escapes the other test by its form."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads = [line for line in lines if line in ("| Fault | Promise | Test |", "| --- | --- | --- |")]
    rows = [line for line in lines if re.fullmatch(r"\| .+ \| .+ \| `test_\w+` \|", line)]
    assert len(lines) == len(heads) + len(rows)
