"""``docs/reliability.md`` names every fault test, and each test that it names has a known defence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.mutations import MUTATIONS, Mutation
from tests.faults.pool_mutations import POOL_MUTATIONS
from tests.faults.start_mutations import START_MUTATIONS
from tests.faults.state_mutations import STATE_MUTATIONS

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
PAGE = REPOSITORY / "docs/reliability.md"
ALL_MUTATIONS = MUTATIONS + STATE_MUTATIONS + START_MUTATIONS + POOL_MUTATIONS


def table() -> list[tuple[str, str, str]]:
    """Return fault, promise and test of each row in the page's tables."""
    return re.findall(r"^\| (.+) \| (.+) \| `((?:\w+/test_\w+\.py::)?test_\w+)` \|$", PAGE.read_text(), re.MULTILINE)


def test_every_fault_has_a_row() -> None:
    """The page's tables list all tests of this folder, and no others except with their path."""
    rows = table()
    assert all(fault.strip() and promise.strip() for fault, promise, _ in rows)
    sources = [path.read_text() for path in FOLDER.glob("test_faults_*.py") if path.name != Path(__file__).name]
    written = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert {name for _, _, name in rows if "::" not in name} == written


def test_tests_elsewhere_exist() -> None:
    """Each test that is named with its path is there."""
    named = [name.split("::") for _, _, name in table() if "::" in name]
    assert [name for file, name in named if f"\ndef {name}(" not in (FOLDER.parent / file).read_text()] == []


def test_every_line_is_a_row() -> None:
    """Every table line has the form that the other tests parse."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads = [line for line in lines if line in ("| Fault | Promise | Test |", "| --- | --- | --- |")]
    rows = [line for line in lines if re.fullmatch(r"\| .+ \| .+ \| `(\w+/test_\w+\.py::)?test_\w+` \|", line)]
    assert len(lines) == len(heads) + len(rows)


def test_every_promise_has_a_defence() -> None:
    """Each test on the page has a mutation that makes it fail, and no other test has one."""
    proved = {re.sub(r"^test_faults_\w+\.py::|\[.*", "", each.test) for each in ALL_MUTATIONS}
    assert {name for _, _, name in table()} == proved


@pytest.mark.parametrize("mutation", ALL_MUTATIONS, ids=lambda mutation: mutation.test)
def test_mutation_can_be_applied(mutation: Mutation) -> None:
    """The text to replace occurs exactly once, and the result is valid Python."""
    for edit in (mutation.edit, *mutation.also):
        text = (REPOSITORY / edit.path).read_text()
        assert text.count(edit.found) == 1
        if edit.path.endswith(".py"):
            compile(text.replace(edit.found, edit.put), edit.path, "exec")
