"""The owner's credential and upstream's state, as clients of the API notice them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import requests

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.history import TurnFilter
from ocm_wsgi.simulator import Plan, Simulator, shapes
from ocm_wsgi.storage.database import Database
from tests.api_requests import (
    error_of,
    post,
)
from tests.conftest import ALICE, RunningService, ServiceFactory


def get(running: RunningService, target: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(running.url + target, headers={"Authorization": f"Bearer {ALICE}"}, timeout=30)


def test_unusable_credential(service: ServiceFactory) -> None:
    """The service runs without a usable credential, and its errors name the cause."""
    running = service(credential=None, workers=1)
    for content, status, expected_words in (
        (None, 503, "credential"),
        ("{", 503, "credential"),
        ("[]", 503, "credential"),
        ('{"auth_mode": "bedrockApiKey"}', 400, "owner"),
    ):
        if content is not None:
            running.credential_path.write_text(content)
        response = post(running)
        assert response.status_code == status
        assert expected_words in error_of(response.content)["message"]
    assert running.simulator.requests == []


def test_a_credential_that_appears_and_changes(service: ServiceFactory) -> None:
    """A credential is loaded when it appears, and each change takes effect at the next request."""
    running = service(credential=None)
    assert post(running).status_code == 503
    for account in ("acct-first", "acct-second"):
        fresh = running.credential_path.with_suffix(".new")
        fresh.write_text(json.dumps(running.simulator.credential(account=account)))
        fresh.replace(running.credential_path)
        for _ in range(4):
            assert post(running).status_code == 200
            assert running.simulator.requests[-1].field("chatgpt-account-id") == account
    running.credential_path.unlink()
    assert post(running).status_code == 503


def test_40_requests_over_4_workers_make_one_refresh(service: ServiceFactory, simulator: Simulator) -> None:
    """An expired access token is refreshed once, however many requests need it."""
    running = service(credential=simulator.credential(expires_in=-60), workers=4)
    with ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(lambda _: post(running), range(40)))
    assert [response.status_code for response in responses] == [200] * 40
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_upstream_401_does_not_reach_the_client(service: ServiceFactory, simulator: Simulator) -> None:
    """A revoked access token is refreshed and the request is retried; the client notices nothing."""
    running = service()
    simulator.expire()
    assert post(running).status_code == 200
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_revoked_credential_needs_the_owner(service: ServiceFactory, simulator: Simulator) -> None:
    """If the credential cannot be refreshed, the error says that the owner must act, and is not a 401."""
    running = service()
    simulator.revoke_all()
    response = post(running)
    assert response.status_code == 400
    assert "owner" in error_of(response.content)["message"]


@pytest.mark.parametrize(
    ("answer", "refreshes"),
    [
        pytest.param(shapes.UNAUTHORIZED, 0, id="no-code"),
        pytest.param(shapes.NOT_PERMITTED, 0, id="another-code"),
        pytest.param(shapes.TOKEN_EXPIRED, 1, id="always-the-token"),
    ],
)
def test_an_endpoint_that_always_answers_401(
    service: ServiceFactory, simulator: Simulator, answer: Plan, refreshes: int
) -> None:
    """Nobody can use up refresh tokens with it, from any worker, nor make others believe that the owner must act."""
    running = service(workers=3)
    simulator.plan(answer, path="/backend-api/codex/models", times=100)
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: get(running, "/v1/models?client_version=0.171.0"), range(30)))
    assert {response.status_code for response in responses} == {400}
    assert {error_of(response.content)["code"] for response in responses} == {"upstream_unauthorized"}
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"] * refreshes
    assert post(running).status_code == 200
    assert get(running, "/ocm/readyz").status_code == 200


def test_a_turn_that_is_answered_401(service: ServiceFactory, simulator: Simulator) -> None:
    """It is recorded as any turn that upstream refuses, with the code of its error, and counts as a request."""
    entries = [{"name": "alice", "token": ALICE, "limits": [{"per": "month", "requests": 2}]}]
    running = service(workers=1, user_entries=entries)
    simulator.plan(shapes.NOT_PERMITTED, times=2)
    assert [post(running).status_code for _ in range(3)] == [400, 400, 429]
    with closing(Database(f"sqlite:///{running.settled_database()}")) as database:
        turns = history.turns(database, TurnFilter()).turns
    assert [(turn.status, turn.http_status, turn.error_code) for turn in turns] == [
        ("error", 400, "insufficient_permissions")
    ] * 2


def test_unreachable_upstream(service: ServiceFactory, simulator: Simulator) -> None:
    """The client gets a 502 with one clear sentence, and the reason is logged."""
    running = service(workers=1)
    simulator.stop()
    response = post(running)
    assert response.status_code == 502
    assert error_of(response.content)["message"] == "OpenAI cannot be reached."
    assert running.log_lines("Connection refused")
