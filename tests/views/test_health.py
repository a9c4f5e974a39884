"""Health checks."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

import pytest
import requests

from ocm_wsgi.simulator import Simulator
from tests.conftest import ALICE, RunningService, ServiceFactory


def get(running: RunningService, target: str) -> requests.Response:
    """Send a request without a token."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(running.url + target, timeout=20)


def readiness(running: RunningService, *, ready: bool) -> list[str]:
    """Wait until the service is ready, or not ready, and return the reasons. A result is cached for a second."""
    deadline = time.monotonic() + 20
    while True:
        response = get(running, "/ocm/readyz")
        assert response.status_code == (200 if response.json()["ready"] else 503)
        if response.json()["ready"] is ready:
            reasons: list[str] = response.json()["reasons"]
            return reasons
        assert time.monotonic() < deadline, response.text


def test_ready(service: ServiceFactory) -> None:
    """Alive and ready, without a token and without a log line."""
    running = service(workers=1)
    assert get(running, "/ocm/healthz").json() == {"alive": True}
    assert readiness(running, ready=True) == []
    running.stop()
    assert "healthz" not in running.log_text()
    assert "readyz" not in running.log_text()


def test_readiness_follows_the_credential(service: ServiceFactory, simulator: Simulator) -> None:
    """Not ready without a credential, with a sentence for the owner; ready as soon as there is one."""
    running = service(workers=1, credential=None)
    (reason,) = readiness(running, ready=False)
    assert "codex login" in reason
    assert str(running.folder) not in reason
    assert get(running, "/ocm/healthz").status_code == 200
    assert running.log_lines("/ocm/readyz 503")
    running.credential_path.write_text(json.dumps(simulator.credential()))
    readiness(running, ready=True)


def test_an_expired_token_is_ready(service: ServiceFactory, simulator: Simulator) -> None:
    """A token that the next request can refresh is ready, and the check refreshes nothing; a refused refresh is not."""
    running = service(workers=1, credential=simulator.credential(expires_in=-60))
    readiness(running, ready=True)
    assert simulator.refreshes == []
    simulator.revoke_all()
    body = {"model": "gpt-5.5", "input": "hi"}
    headers = {"Authorization": f"Bearer {ALICE}"}
    assert requests.post(f"{running.url}/v1/responses", json=body, headers=headers, timeout=20).status_code == 400
    (reason,) = readiness(running, ready=False)
    assert "owner" in reason


@pytest.mark.parametrize("kind", ["locked", "read-only folder in its place"])
def test_an_unwritable_database_is_not_ready(service: ServiceFactory, kind: str) -> None:
    """Not ready while records cannot be written, and ready again when they can."""
    running = service(workers=1)
    readiness(running, ready=True)
    database = running.state_path / "ocm.db"
    if kind == "locked":
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            assert readiness(running, ready=False) == ["The state database cannot be written to."]
    else:
        for file in running.state_path.glob("ocm.db*"):
            file.unlink()
        database.mkdir()
        assert readiness(running, ready=False) == ["The state database cannot be written to."]
        database.rmdir()
    readiness(running, ready=True)
    assert ALICE not in running.log_text()
