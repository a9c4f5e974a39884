"""Fixtures for clients that use the whole stack: TLS, nginx, the service, the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.nginx import Nginx, run_nginx
from tests.faults.conftest import shared_stack, stack, start_stack

__all__ = ["shared_stack", "stack", "start_stack"]


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[[str], Nginx]]:
    """Return a function that starts nginx in front of ``host:port``."""
    directory = tmp_path / "nginx"
    directory.mkdir()
    with ExitStack() as running:
        yield lambda upstream: running.enter_context(run_nginx(upstream, directory))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the test of long silence first: it only waits, while other workers of pytest-xdist continue."""
    items.sort(key=lambda item: item.path.name != "test_silence.py")
