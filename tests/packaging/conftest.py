"""The wheel, built and installed once for all processes that run tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.wheels import build_wheel, install_wheel


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "packaging"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def wheel(shared: Path) -> Path:
    """Return the wheel of this package."""
    with FileLock(shared / "wheel.lock"):
        built = list(shared.glob("wheel/*.whl"))
        return built[0] if built else build_wheel(shared / "wheel")


@pytest.fixture(scope="session")
def programs(shared: Path, wheel: Path) -> Path:
    """Return the folder of the programs of an environment in which the wheel is installed."""
    done = shared / "installed"
    with FileLock(shared / "installation.lock"):
        if not done.exists():
            install_wheel(wheel, shared / "environment")
            done.touch()
    return shared / "environment" / "bin"
