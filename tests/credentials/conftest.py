"""Fixtures of the credential tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Simulator
from tests.credentials.credential_home import Home


@pytest.fixture
def home(simulator: Simulator, tmp_path: Path) -> Home:
    """An empty home, beside a simulator that issues its tokens."""
    folder = tmp_path / "codex"
    folder.mkdir()
    return Home(folder, simulator)


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Run ``mount`` with these arguments, the last of which is the place; undone at the end."""
    tool = shutil.which("mount", path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert tool is not None
    with ExitStack() as mounted:

        def run(*arguments: object) -> None:
            subprocess.run([tool, *map(str, arguments)], check=True)
            if "remount,bind,ro" not in arguments:
                umount = [str(Path(tool).with_name("umount")), "--lazy", str(arguments[-1])]
                mounted.callback(subprocess.run, umount, check=True)

        yield run
