"""Fixtures of the credential tests."""

from __future__ import annotations

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
