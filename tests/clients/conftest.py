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


@pytest.fixture
def start_stack(simulator: Simulator, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A factory of all of it; options as of ``start_service``."""
    with ExitStack() as running:

        def start(**options: Any) -> Stack:
            return running.enter_context(run_stack(simulator, tmp_path / "stack", **options))

        yield start
