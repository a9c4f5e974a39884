"""Fixtures of the fault tests: the stack as it runs in production."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.faults.stack import Stack, run_stack

#: Connections that two workers keep for the next turn: as many as each had in use at once and that ended cleanly.
KEPT_OPEN = 2 * 9


@pytest.fixture(scope="module")
def lasting_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for all tests of a module after which it must serve on."""
    with Simulator() as simulator, run_stack(simulator, tmp_path_factory.mktemp("faults")) as stack:
        # A worker that is still starting grows, and knows no credential that it could go on with.
        assert stack.each_worker_serves()
        yield stack


@pytest.fixture
def stack(lasting_stack: Stack) -> Iterator[Stack]:
    """The module's stack, with nothing seen yet; after each fault it serves on, and nothing is left open upstream."""
    simulator = lasting_stack.simulator
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    simulator.clear()
    yield lasting_stack
    assert lasting_stack.serves()
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    assert simulator.wait_for(lambda: simulator.open_connections <= KEPT_OPEN)


@pytest.fixture
def start_stack(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A factory of stacks of a test's own; options as of ``start_service``."""
    with ExitStack() as running:

        def start(**options: Any) -> Stack:
            return running.enter_context(run_stack(simulator, tmp_path / "stack", **options))

        yield start
