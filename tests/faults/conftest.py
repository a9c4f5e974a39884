"""Fixtures for the fault tests: the whole stack as in production."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.faults.stack import Stack, run_stack

#: Connections that two workers keep alive: at most as many as each had in use concurrently.
MAX_IDLE_CONNECTIONS = 2 * 9


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack shared by the tests of a module, after each of which it must still work."""
    with Simulator() as simulator, run_stack(simulator, tmp_path_factory.mktemp("faults")) as stack:
        # A worker that is still starting grows, and has no last valid credential to fall back to.
        assert stack.each_worker_serves()
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """The module's stack, with an empty request log; afterwards it must work, with nothing left open upstream."""
    simulator = shared_stack.simulator
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    simulator.clear()
    yield shared_stack
    assert shared_stack.serves()
    assert simulator.wait_for(lambda: simulator.open_streams == 0)
    assert simulator.wait_for(lambda: simulator.open_connections <= MAX_IDLE_CONNECTIONS)


@pytest.fixture
def start_stack(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A factory of separate stacks for one test; takes the options of ``start_service``."""
    with ExitStack() as running:

        def start(**options: Any) -> Stack:
            return running.enter_context(run_stack(simulator, tmp_path / "stack", **options))

        yield start
