"""Removes each defence that the modules beside this one list, in a copy of the tree; its test must then fail.

Run with ``make prove``, or ``python -m tests.faults.prove [WORD ...]`` for the mutations whose test contains a word.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.mutations import MUTATIONS, Edit, Mutation
from tests.faults.pool_mutations import POOL_MUTATIONS
from tests.faults.security_mutations import SECURITY_MUTATIONS
from tests.faults.start_mutations import START_MUTATIONS
from tests.faults.state_mutations import STATE_MUTATIONS

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent.relative_to(REPOSITORY)
#: Tests wait for real processes; running more of them concurrently would make them time out.
MAX_CONCURRENT = 3
TIMEOUT_SECONDS = 300
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "benchmarks", "docs")
_FAILED = 1


@dataclass(frozen=True)
class Proof:
    """The outcome of a test.

    :ivar has_failed: whether an assertion of the test or of its fixtures failed.
    :ivar reason: the reason that pytest reports.
    """

    has_failed: bool
    reason: str


def copy_tree(folder: Path) -> None:
    """Copy the files that the tests need, without the installed packages."""
    shutil.copytree(REPOSITORY, folder, symlinks=True, ignore=_LEFT_OUT)
    (folder / ".cache").symlink_to(REPOSITORY / ".cache")


def apply(edit: Edit, folder: Path) -> None:
    """Apply an edit to a copy of the tree."""
    path = folder / edit.path
    text = path.read_text()
    assert text.count(edit.found) == 1, f"{edit.path} contains {edit.found!r} {text.count(edit.found)} times"
    changed = text.replace(edit.found, edit.put)
    if path.suffix == ".py":
        compile(changed, edit.path, "exec")
    path.write_text(changed)


def tests_of(mutation: Mutation) -> str:
    """Return the test's node id for pytest."""
    if "/" in mutation.test.partition("::")[0]:
        return f"tests/{mutation.test}"
    if ".py::" in mutation.test:
        return str(FOLDER / mutation.test)
    name = mutation.test.partition("[")[0]
    (module,) = (path for path in (REPOSITORY / FOLDER).glob("test_*.py") if f"\ndef {name}(" in path.read_text())
    return f"{FOLDER / module.name}::{mutation.test}"


def run(folder: Path, tests: Iterable[str]) -> Proof:
    """Run tests in a copy of the tree, with the copy's own package imported."""
    # With bytecode, or each run would compile pytest's plugins again, which takes longer than most tests.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    shown = subprocess.run(
        [sys.executable, "-c", "import ocm_wsgi; print(ocm_wsgi.__file__)"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith(str(folder)), shown.stdout
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    if done.returncode not in (0, _FAILED):
        raise RuntimeError(f"pytest could not run: {done.stdout[-2000:]}")
    reasons = re.findall(r"^E   +(.+)$", done.stdout, re.MULTILINE)
    return Proof(done.returncode == _FAILED, reasons[0] if reasons else done.stdout[-300:])


def prove(mutation: Mutation) -> Proof:
    """Remove a defence in a fresh copy of the tree, and run its test."""
    with tempfile.TemporaryDirectory(prefix="ocm-mutant-") as scratch:
        folder = Path(scratch) / "tree"
        copy_tree(folder)
        for edit in (mutation.edit, *mutation.also):
            apply(edit, folder)
        return run(folder, [tests_of(mutation)])


def main() -> int:
    """Prove all defences, or those selected by the words; return 1 if a test still passes."""
    words = sys.argv[1:] or [""]
    mutations = MUTATIONS + START_MUTATIONS + STATE_MUTATIONS + POOL_MUTATIONS + SECURITY_MUTATIONS
    chosen = [mutation for mutation in mutations if any(word in mutation.test for word in words)]
    unproved = 0
    with ThreadPoolExecutor(MAX_CONCURRENT) as pool:
        for mutation, proof in zip(chosen, pool.map(prove, chosen), strict=True):
            unproved += not proof.has_failed
            verdict = "fails " if proof.has_failed else "PASSES"
            print(f"{verdict} {mutation.test}  without  {mutation.edit.path}: {mutation.edit.found.strip()[:60]!r}")
            print(f"       {proof.reason[:150]}", flush=True)
    print(f"{len(chosen) - unproved} of {len(chosen)} defences proved")
    return 1 if unproved else 0


if __name__ == "__main__":
    sys.exit(main())
