"""Fixtures of the tests of the views."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ocm_wsgi.simulator import Simulator
from tests.conftest import RunningService, start_service


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests that leave no state behind."""
    with Simulator() as simulator, start_service(simulator, tmp_path_factory.mktemp("shared") / "service") as running:
        yield running


@pytest.fixture
def running(shared: RunningService) -> RunningService:
    """The shared service, with the simulator's records cleared."""
    shared.simulator.clear()
    return shared
