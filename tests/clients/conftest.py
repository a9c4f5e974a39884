"""Fixtures for clients that come the whole way: TLS, nginx, the service, the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.clients.nginx import Nginx, run_nginx
from tests.faults.stack import Stack, run_stack


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Return a function that starts nginx in front of ``host:port``; options as of ``run_nginx``."""
    directory = tmp_path / "nginx"
    directory.mkdir()
    with ExitStack() as running:
        yield lambda upstream, **options: running.enter_context(run_nginx(upstream, directory, **options))


@pytest.fixture(scope="module")
def lasting_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for the tests of a module that leave it as it was."""
    with Simulator() as simulator, run_stack(simulator, tmp_path_factory.mktemp("clients")) as stack:
        yield stack


@pytest.fixture
def stack(lasting_stack: Stack) -> Iterator[Stack]:
    """The module's own, with nothing seen yet; nothing may be left open upstream."""
    lasting_stack.simulator.clear()
    yield lasting_stack
    assert lasting_stack.simulator.wait_for(lambda: lasting_stack.simulator.open_streams == 0)


@pytest.fixture
def start_stack(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A factory of all of it; options as of ``start_service``."""
    with ExitStack() as running:

        def start(**options: Any) -> Stack:
            return running.enter_context(run_stack(simulator, tmp_path / "stack", **options))

        yield start


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of long silence begin first: they only wait, while other workers of pytest-xdist go on."""
    items.sort(key=lambda item: item.path.name != "test_silence.py")
