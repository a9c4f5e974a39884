"""A service with an API key, two users and an admin, in front of a platform that stores what they create."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from ocm_wsgi.simulator import Simulator
from tests.conftest import ALICE, BOB, RunningService, start_service

CAROL = "sk-ocm-carol-0123456789abcdef"
USERS: list[dict[str, Any]] = [
    {"name": "alice", "token": ALICE},
    {"name": "bob", "token": BOB},
    {"name": "carol", "token": CAROL, "admin": True},
]

Call = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of a module."""
    with Simulator() as simulator:
        credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
        folder = tmp_path_factory.mktemp("platform") / "service"
        with start_service(simulator, folder, credential=credential, user_entries=USERS) as running:
            yield running


@pytest.fixture
def call(platform: RunningService) -> Call:
    """Return a function that sends a request to the service, with the simulator's records cleared."""
    platform.simulator.clear()
    return caller(platform)


def caller(running: RunningService) -> Call:
    """Return a function that sends a request as a user: ``call("alice's token", "GET", "files")``."""

    def send(token: str, method: str, path: str, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
            return session.request(method, f"{running.url}/v1/{path}", headers=headers, timeout=30, **options)

    return send
