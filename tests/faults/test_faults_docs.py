"""``docs/reliability.md`` names every fault test, and no other; for each of them a defence is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.mutations import MUTATIONS, Mutation

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
PAGE = REPOSITORY / "docs/reliability.md"


def table() -> list[tuple[str, str, str]]:
    """Fault, promise and test of each line of the page's tables."""
    return re.findall(r"^\| (.+) \| (.+) \| `(test_\w+)` \|$", PAGE.read_text(), re.MULTILINE)


def test_every_fault_has_its_line() -> None:
    """The tests of the page's tables are those of this folder, and each has a fault and a promise before it."""
    rows = table()
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


def test_every_promise_has_a_defence() -> None:
    """For each test of the page it is known what can be taken out to see it fail, and for no other."""
    assert {name for _, _, name in table()} == {re.search(r"test_(?!faults_)\w+", each.test)[0] for each in MUTATIONS}  # type: ignore[index]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.test)
def test_defence_is_where_it_was(mutation: Mutation) -> None:
    """What is to be taken out stands there once, and what is put in its place makes sense to Python."""
    for edit in (mutation.edit, *mutation.also):
        text = (REPOSITORY / edit.path).read_text()
        assert text.count(edit.found) == 1
        if edit.path.endswith(".py"):
            compile(text.replace(edit.found, edit.put), edit.path, "exec")
