"""Fixtures for clients that use the whole stack: TLS, nginx, the service, the simulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.backend import Backend, run_backend
from tests.clients.nginx import Nginx, run_nginx
from tests.faults.conftest import shared_stack, stack, start_stack

__all__ = ["shared_stack", "stack", "start_stack"]


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """Run a stand-in for the service."""
    with run_backend() as server:
        yield server


@pytest.fixture(scope="module")
def front(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Run nginx in front of the stand-in."""
    with run_nginx(f"127.0.0.1:{backend.server_port}", tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx
