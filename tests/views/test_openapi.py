"""Checks docs/openapi.yaml against the service, and the service against it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from openapi_core import OpenAPI
from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse
from openapi_core.validation.response.exceptions import InvalidData

from ocm_wsgi.app import create_app
from ocm_wsgi.config import load
from ocm_wsgi.simulator import Plan, Simulator
from tests.conftest import ALICE, BOB, RunningService, start_service

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
ADMIN = "sk-ocm-admin-0123456789abcdef"
TOKENS = {"alice": ALICE, "bob": BOB, "root": ADMIN, "an unknown user": "sk-ocm-nobody-0123456789", "no token": None}
LIMITS = [{"per": "5h", "percent": 50}, {"per": "week", "usd": 1}, {"per": "day", "requests": 400}]
USERS: list[dict[str, Any]] = [
    {"name": "alice", "token": ALICE, "limits": LIMITS, "max_concurrent": 3, "expires_at": "2999-01-01T00:00:00Z"},
    {"name": "bob", "token": BOB, "models": ["gpt-*"]},
    {"name": "root", "token": ADMIN, "admin": True},
]
CONTENT: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
OPEN_API = OpenAPI.from_dict(CONTENT)
TARGETS = [
    *CONTENT["paths"],
    "/ocm/v1/usage?by=user,model,service_tier,hour,day,week",
    "/ocm/v1/usage?since=2026-01-01&until=2999-01-31T18:00:00Z&by=day",
    "/ocm/v1/usage?user=alice",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with some usage, including a failed turn of an unknown model."""
    folder = tmp_path_factory.mktemp("openapi") / "service"
    with Simulator() as simulator, start_service(simulator, folder, user_entries=USERS, workers=1) as started:
        for token in (ALICE, BOB):
            send(started, "/v1/responses", token, json={"model": "gpt-5.5", "stream": True, "input": "hi"})
        simulator.plan(Plan(status=500))
        send(started, "/v1/responses", BOB, json={"model": "unknown-model", "input": "hi"})
        yield started


def send(running: RunningService, target: str, token: str | None, **options: Any) -> requests.Response:
    """Send a request that ignores the machine's proxy and netrc settings."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        method = "POST" if options else "GET"
        return session.request(method, running.url + target, headers=headers, timeout=20, **options)


def require_documented(response: requests.Response) -> None:
    """Validate a request and its response against the document."""
    request = RequestsOpenAPIRequest(response.request)
    if response.status_code == 200:
        OPEN_API.validate_request(request)
    OPEN_API.validate_response(request, RequestsOpenAPIResponse(response))


@pytest.mark.parametrize("user", TOKENS)
@pytest.mark.parametrize("target", TARGETS)
def test_responses_are_as_documented(running: RunningService, target: str, user: str) -> None:
    """For every user, each response has a documented status and fields and exactly the documented members."""
    require_documented(send(running, target, TOKENS[user]))


def test_other_statuses_are_as_documented(running: RunningService) -> None:
    """Errors are as documented, and so are the responses while there is no credential."""
    refused = send(running, "/ocm/v1/usage?by=colour", ALICE)
    assert refused.status_code == 400
    require_documented(refused)
    content = running.credential_path.read_text()
    running.credential_path.unlink()
    deadline = time.monotonic() + 20
    while (unready := send(running, "/ocm/readyz", None)).status_code == 200:
        assert time.monotonic() < deadline
    require_documented(unready)
    require_documented(send(running, "/ocm/v1/status", ADMIN))
    running.credential_path.write_text(content)


def test_undocumented_members_are_noticed(running: RunningService) -> None:
    """The document is strict: a response with an undocumented member fails."""
    response = send(running, "/ocm/healthz", None)
    response._content = b'{"alive": true, "since": 1}'
    with pytest.raises(InvalidData):
        require_documented(response)


def test_exactly_the_documented_paths_exist(tmp_path: Path) -> None:
    """The application's own endpoints are exactly those of the document."""
    app = create_app(load(environ={"HOME": str(tmp_path)}, cwd=tmp_path))
    endpoints = {"status", "usage", "codex_usage", "metrics", "healthz", "readyz"}
    assert {str(rule) for rule in app.url_map.iter_rules() if rule.endpoint in endpoints} == set(CONTENT["paths"])
