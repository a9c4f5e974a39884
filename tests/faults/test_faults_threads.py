"""The portable mode, with one thread per stream, passes the same tests as the event loop.

``docs/reliability.md`` lists them under their original names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.faults.stack import Stack, run_stack
from tests.faults.test_faults_clients import test_clients_that_disconnect  # noqa: F401
from tests.faults.test_faults_state import test_database_locked_by_another_process  # noqa: F401
from tests.faults.test_faults_upstream import (  # noqa: F401
    test_upstream_cuts_off_after_the_head,
    test_upstream_cuts_off_its_response,
    test_upstream_falls_silent,
    test_upstream_without_a_response,
)
from tests.faults.test_faults_workers import test_worker_killed_at_each_step  # noqa: F401

THREADS = ("--worker-class", "gthread")


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack shared by all tests, after each of which it must still work."""
    folder = tmp_path_factory.mktemp("threads")
    with Simulator() as simulator, run_stack(simulator, folder, arguments=THREADS) as stack:
        yield stack


@pytest.fixture
def start_stack(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A factory of stacks that use gunicorn's own threads."""
    with ExitStack() as running:

        def start(**options: Any) -> Stack:
            return running.enter_context(run_stack(simulator, tmp_path / "stack", arguments=THREADS, **options))

        yield start
