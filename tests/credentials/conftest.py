"""Fixtures of the credential tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocm_wsgi.simulator import Simulator
from tests.credentials.credential_home import Home, refresh_here


@pytest.fixture
def home(simulator: Simulator, tmp_path: Path) -> Home:
    """An empty home, beside a simulator that issues its tokens."""
    folder = tmp_path / "codex"
    folder.mkdir()
    return Home(folder, simulator)


@pytest.fixture
def in_process(home: Home) -> None:
    """Refresh in the test's process, where the test is not about another one: each takes 0.25 s of CPU to start."""
    home.run = refresh_here
