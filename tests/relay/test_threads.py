"""Runs the tests of the event loop against the portable fallback, with one thread per stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.conftest import RunningService, ServiceFactory, start_service
from tests.relay.test_shutdown import test_open_streams_complete_on_term  # noqa: F401 - run again
from tests.views import test_proxy, test_proxy_bodies
from tests.views.conftest import running  # noqa: F401 - a fixture of the tests that are run again
from tests.views.test_request_log import test_one_log_line_per_request  # noqa: F401 - run again

THREADS = ("--worker-class", "gthread")

for module in (test_proxy, test_proxy_bodies):
    globals().update({name: test for name, test in vars(module).items() if name.startswith("test_")})
del test_other_wsgi_servers_work  # type: ignore[name-defined]  # noqa: F821 - from test_proxy, without gunicorn


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests that leave no state behind."""
    folder = tmp_path_factory.mktemp("threads") / "service"
    with Simulator() as simulator, start_service(simulator, folder, arguments=THREADS) as started:
        yield started


@pytest.fixture
def service(simulator: Simulator, tmp_path: Path) -> Iterator[ServiceFactory]:
    """Return a factory of services that run with gunicorn's own threads."""
    with ExitStack() as services:

        def start(arguments: tuple[str, ...] = (), **options: Any) -> RunningService:
            folder = tmp_path / f"service-{len(list(tmp_path.glob('service-*')))}"
            started = start_service(simulator, folder, arguments=(*THREADS, *arguments), **options)
            return services.enter_context(started)

        yield start
