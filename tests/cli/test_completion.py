"""Shell completion: what ``ocm completion`` prints works in a real shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.conftest import REPOSITORY

Run = Callable[..., Result]

# Asks as bash does when Tab is pressed after the words.
PRESS_TAB = """
eval "$(ocm completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_ocm_completion ocm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(folder: Path, words: str) -> set[str]:
    """Return what bash offers after ``words``."""
    program = folder / "bin" / "ocm"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ocm_wsgi "$@"\n')
    program.chmod(0o755)
    environ = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB.format(words=words)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ocm add", {"add-user"}),
        ("ocm show-user al", {"alice"}),
        ("ocm deploy sy", {"systemd"}),
        ("ocm serve --worker-cl", {"--worker-class"}),
    ],
)
def test_bash(folder: Path, run: Run, words: str, expected: set[str]) -> None:
    """bash completes commands, users, kinds, and the options of gunicorn."""
    if "show-user" in words:
        assert run("add-user", "alice").exit_code == 0
    assert completed(folder, words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells(run: Run, shell: str) -> None:
    """Each shell has its code, also as the one that the environment names."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_OCM_COMPLETE={shell}_complete" in result.stdout
    assert run("completion", SHELL=f"/usr/bin/{shell}").stdout == result.stdout


def test_unknown_shell(run: Run) -> None:
    """Another shell is a usage error that names those that work."""
    result = run("completion", SHELL="/bin/dash")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: Which shell? One of: bash, zsh, fish."
    assert run("completion", "tcsh").exit_code == 2
