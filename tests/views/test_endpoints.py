"""The table of endpoints in front of the simulator: what passes, what is refused, and that upstream sees no more."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM
from ocm_wsgi.simulator import Plan, Simulator
from tests.api_requests import error_of, exchange, head
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory

ADMIN = "sk-ocm-owner"
USERS = [{"name": "alice", "token": ALICE}, {"name": "owner", "token": ADMIN, "admin": True}]
KEYS = ["realtime/client_secrets", "realtime/sessions", "chatkit/sessions", "organization/admin_api_keys"]
EXTRA = [
    {"method": "GET", "path": "/v1/alpha/notes/{note}", "users": "all"},
    {"method": "POST", "path": "/v1/realtime/{any}"},
]


def status_of(running: RunningService, method: str, path: str, token: str) -> tuple[int, str | None]:
    """Return status and code of a request without a body."""
    status, _, body = exchange(running, head(method, f"/v1/{path}", token=token))
    return status, error_of(body)["code"] if status >= 400 else None


@pytest.fixture
def with_api_key(service: ServiceFactory) -> ServiceFactory:
    """Return a factory of services for an owner with an API key."""

    def start(**options: object) -> RunningService:
        credential = {"auth_mode": "apikey", "OPENAI_API_KEY": options.pop("key")}
        return service(credential=credential, user_entries=USERS, workers=1, **options)

    return start


def test_what_lies_beside_the_codex_api_is_out_of_reach(service: ServiceFactory) -> None:
    """Remote-control hosts, goals, the platform and keys: neither users nor admins reach them, by any method."""
    running = service(user_entries=USERS, workers=1)
    for token in (ALICE, ADMIN):
        for method in ("GET", "POST", "DELETE", "TRACE"):
            for path in ("remote_control/hosts", "remote_control/hosts/h_1", "goals", "analytics-events/events", *KEYS):
                assert status_of(running, method, path, token) == (404, "not_found")
            for path in ("embeddings", "files", "files/file-1", "audio/speech", "responses/resp_1"):
                assert status_of(running, method, path, token) == (400, "endpoint_unavailable")
        for method in ("TRACE", "WEBSOCKET", "GET"):
            assert status_of(running, method, "responses", token) == (405, "method_not_supported")
    assert running.simulator.requests == []


def test_every_endpoint_reaches_upstream(service: ServiceFactory, simulator: Simulator) -> None:
    """For both credentials, each row of the table is relayed with its method and path; those that cost are turns."""
    for table, base, credential in (
        (CHATGPT, "/backend-api/codex/", simulator.credential()),
        (PLATFORM, "/v1/", {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}),
    ):
        simulator.clear()
        running = service(credential=credential, user_entries=USERS, workers=1)
        rows = [each for each in table.endpoints if each.method != WEBSOCKET]
        requests = [(each.method, re.sub(r"\{\w+\}", "id_1", each.path)) for each in rows]
        for method, path in requests:
            exchange(running, head(method, f"/v1/{path}", token=ADMIN, **{"Content-Length": 2}) + b"{}")
        assert [(seen.method, seen.target) for seen in simulator.requests] == [
            (method, base + path) for method, path in requests
        ]
        assert running.stop() == 0
        with closing(sqlite3.connect(running.settled_database())) as database:
            (turns,) = database.execute("SELECT count(*) FROM turn").fetchone()
        assert turns == sum(each.is_turn for each in rows)


def test_unmetered_turns_are_refused_to_users_with_limits(service: ServiceFactory) -> None:
    """A call over WebRTC uses what the service does not see: a limit in tokens refuses it."""
    limited = {"name": "bob", "token": BOB, "limits": [{"per": "day", "tokens": 1000000}]}
    running = service(user_entries=[*USERS, limited], workers=1)
    assert status_of(running, "POST", "realtime/calls", BOB) == (400, "limit_unmeasurable")
    assert running.simulator.requests == []
    running.simulator.plan(Plan(status=201, body=b"v=0"))
    assert status_of(running, "POST", "realtime/calls", ALICE) == (201, None)


def test_the_platform_without_what_makes_keys(with_api_key: ServiceFactory, simulator: Simulator) -> None:
    """With an API key the platform's endpoints pass, and those that make keys do not, even as extra endpoints."""
    running = with_api_key(key=simulator.api_key(), extra_endpoints=EXTRA)
    assert status_of(running, "GET", "alpha/notes/n_1", ALICE) == (200, None)
    assert status_of(running, "POST", "realtime/anything", ADMIN) == (200, None)
    assert status_of(running, "POST", "realtime/anything", ALICE) == (403, "admin_only")
    assert status_of(running, "DELETE", "models/ft:gpt-5:acme::x", ALICE) == (403, "admin_only")
    assert status_of(running, "GET", "models", ALICE) == (200, None)
    passed = len(running.simulator.requests)
    for token in (ALICE, ADMIN):
        for method in ("GET", "POST"):
            for path in KEYS:
                assert status_of(running, method, path, token) == (404, "not_found")
    assert len(running.simulator.requests) == passed == 3
