"""``docs/security.md`` names tests that exist, and each defence that ``make prove`` removes has a row there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.mutations import Mutation
from tests.faults.security_mutations import SECURITY_MUTATIONS

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs/security.md"


def named_tests() -> set[str]:
    """Return the tests that the page names."""
    return set(re.findall(r"`([\w/]+\.py::test_\w+)`", PAGE.read_text(encoding="utf-8")))


def test_named_tests_exist() -> None:
    """Each test on the page is in the file that the page says."""
    missing = []
    for name in named_tests():
        file, _, function = name.partition("::")
        path = TESTS / file
        if not path.exists() or f"\ndef {function}(" not in path.read_text(encoding="utf-8"):
            missing.append(name)
    assert missing == []


def test_every_attack_has_a_test() -> None:
    """Each row of the page's tables of defences ends with at least one test."""
    section = PAGE.read_text(encoding="utf-8").partition("## The defences")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    heads = [row for row in rows if row.endswith("| tested by |")]
    assert len(heads) >= 4
    assert [row for row in rows if row not in heads and not re.search(r"::test_\w+` \|$", row)] == []


def test_removed_defences_have_rows() -> None:
    """Each test that must fail without a defence is on the page."""
    assert {mutation.test.partition("[")[0] for mutation in SECURITY_MUTATIONS} - named_tests() == set()


@pytest.mark.parametrize("mutation", SECURITY_MUTATIONS, ids=lambda mutation: mutation.test)
def test_mutation_can_be_applied(mutation: Mutation) -> None:
    """The text to replace occurs exactly once, and the result is valid Python."""
    for edit in (mutation.edit, *mutation.also):
        text = (ROOT / edit.path).read_text(encoding="utf-8")
        assert text.count(edit.found) == 1
        if edit.path.endswith(".py"):
            compile(text.replace(edit.found, edit.put), edit.path, "exec")
