"""``ocm``, the program: what Ctrl-C does before a command begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Presses Ctrl-C at the moment when a module is about to be imported.
INTERRUPTED = """
import os, signal, sys

class Interrupting:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, {before})
sys.meta_path.insert(0, Interrupting)
sys.argv[1:] = {arguments!r}
from ocm_wsgi.__main__ import main
main()
"""


def interrupted(
    folder: Path, module: str, *arguments: str, before: str = "signal.default_int_handler"
) -> subprocess.CompletedProcess[str]:
    """Run ``ocm`` and interrupt it at an import.

    :param before: what the process does at an interrupt when it starts.
    """
    return subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module, arguments=list(arguments), before=before)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "OCM_LISTEN_PORT": "0",
            "WEB_CONCURRENCY": "0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ocm_wsgi.cli", ["--help"]),
        ("ocm_wsgi.cli.usage", ["usage"]),
        ("ocm_wsgi.server.command", ["serve"]),
        ("gunicorn.sock", ["serve"]),
    ],
)
def test_interrupted_before_it_begins(tmp_path: Path, module: str, arguments: list[str]) -> None:
    """A program that is interrupted while it imports ends as one without Python would, and prints nothing."""
    result = interrupted(tmp_path, module, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_interrupted_command(tmp_path: Path) -> None:
    """A command that has begun can clean up, and says that it was aborted."""
    result = interrupted(tmp_path, "ocm_wsgi.demo.service", "demo")
    assert (result.returncode, result.stdout, result.stderr.strip()) == (1, "", "Aborted!")


def test_ignored_interrupts_stay_ignored(tmp_path: Path) -> None:
    """A program in the background of a shell ignores Ctrl-C, which is for the one in the foreground."""
    result = interrupted(tmp_path, "ocm_wsgi.cli", "--help", before="signal.SIG_IGN")
    assert result.returncode == 0
    assert "serve" in result.stdout
