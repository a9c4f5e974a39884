"""Status and usage, as users, admins and strangers see them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocm_wsgi.simulator import Simulator
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory, start_service

ADMIN = "sk-ocm-admin-0123456789abcdef"
LIMITS = [
    {"per": "5h", "percent": 50},
    {"per": "week", "usd": 1, "requests": 4},
    {"per": "month", "tokens": 10_000_000},
]
USERS: list[dict[str, Any]] = [
    {"name": "alice", "token": ALICE, "limits": LIMITS, "models": ["gpt-*"], "max_concurrent": 3},
    {"name": "bob-the-second", "token": BOB},
    {"name": "root", "token": ADMIN, "admin": True},
]
TURN = {"model": "gpt-5.5", "stream": True, "input": "hi"}
CODEX_PATHS = ("/api/codex/usage", "/backend-api/wham/usage")


def get(running: RunningService, target: str, token: str | None = ADMIN, **parameters: Any) -> requests.Response:
    """Send a request that ignores the machine's proxy and netrc settings."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return session.get(running.url + target, params=parameters, headers=headers, timeout=20)


def timeless(response: requests.Response) -> str:
    """Return a response's text without the seconds until a reset, which differ between two requests."""
    return re.sub(r'(?<="reset_after_seconds":)\d+', "some", response.text)


def send_turn(running: RunningService, token: str) -> None:
    """Send a turn of a user."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}"}
        response = session.post(f"{running.url}/v1/responses", json=TURN, headers=headers, timeout=20)
    assert response.status_code == 200


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two turns of alice and one of bob."""
    folder = tmp_path_factory.mktemp("status") / "service"
    with Simulator() as simulator, start_service(simulator, folder, user_entries=USERS, workers=1) as started:
        for token in (ALICE, ALICE, BOB):
            send_turn(started, token)
        # Upstream's windows are written to the database shortly after they were reported.
        deadline = time.monotonic() + 20
        while len(get(started, "/ocm/v1/status").json()["service"]["windows"]) < 2:
            assert time.monotonic() < deadline
        yield started


def test_status_of_a_user(running: RunningService) -> None:
    """A user sees their own limits, and nothing else."""
    response = get(running, "/ocm/v1/status", ALICE)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json().keys() == {"user"}
    user = response.json()["user"]
    limits = {limit["limit"]: limit for limit in user.pop("limits")}
    assert user == {
        "name": "alice",
        "admin": False,
        "disabled": False,
        "models": ["gpt-*"],
        "max_concurrent": 3,
        "expires_at": None,
    }
    assert limits.keys() == {"50% per 5h", "1 USD per week", "4 requests per week", "10M tokens per month"}
    assert limits["4 requests per week"]["used"] == 2
    assert limits["4 requests per week"]["used_percent"] == 50
    assert limits["10M tokens per month"]["used"] == 2 * (1234 + 56)
    assert not limits["1 USD per week"]["reached"]


def test_status_of_an_admin(running: RunningService) -> None:
    """An admin sees the status of the service and the subscription."""
    service = get(running, "/ocm/v1/status").json()["service"]
    assert [user["name"] for user in service["users"]] == ["alice", "bob-the-second", "root"]
    assert {limit["used"] for limit in service["users"][0]["limits"] if limit["unit"] == "requests"} == {2}
    assert service["credential"]["usable"]
    assert service["credential"]["mode"] == "chatgpt"
    assert {window["period"]: round(window["used_percent"]) for window in service["windows"]} == {"5h": 12, "week": 34}
    week = service["windows"][1]
    assert week["users"].keys() == {"alice", "bob-the-second"}
    assert sum(week["users"].values()) + week["outside_percent"] == pytest.approx(week["used_percent"], abs=0.01)
    (limit,) = service["rate_limits"]["limits"]
    assert limit["secondary"]["used_percent"] == 34


def test_usage_of_a_user(running: RunningService) -> None:
    """A user sees their own turns, whatever the query."""
    for parameters in ({}, {"user": "alice"}, {"by": "user,model"}, {"since": int(time.time()) - 7200}):
        response = get(running, "/ocm/v1/usage", ALICE, **parameters).json()
        (row,) = response["rows"]
        assert row["turns"] == response["total"]["turns"] == 2
        assert row["input_tokens"] == 2468
        assert row["cost_usd"] > 0
        assert row.get("user", "alice") == "alice"


def test_usage_of_all_users(running: RunningService) -> None:
    """An admin sees the usage of all users, or of the one they name."""
    rows = get(running, "/ocm/v1/usage", by="user").json()["rows"]
    assert {row["user"]: row["turns"] for row in rows} == {"alice": 2, "bob-the-second": 1}
    response = get(running, "/ocm/v1/usage", user="bob-the-second", by="day,model").json()
    (row,) = response["rows"]
    assert (row["model"], row["turns"]) == ("gpt-5.5", 1)
    # The turn may have been before midnight.
    days = [time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(at)) for at in (time.time() - 600, time.time())]
    assert row["day"] in days
    assert get(running, "/ocm/v1/usage", until="2020-01-01").json()["total"]["turns"] == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"by": "colour"},
        {"by": "user,user"},
        {"by": "transport"},
        {"since": "yesterday"},
        {"since": "99999999999999"},
        {"until": "2027-13-01"},
        {"since": ["2027-01-01", "2027-01-02"]},
        {"limit": "5"},
    ],
)
def test_invalid_usage_query(running: RunningService, parameters: dict[str, Any]) -> None:
    """400 with one sentence that says what is supported."""
    response = get(running, "/ocm/v1/usage", **parameters)
    assert response.status_code == 400
    assert response.json()["error"].keys() == {"type", "code", "message"}


@pytest.mark.parametrize("path", CODEX_PATHS)
def test_codex_usage_of_a_user(running: RunningService, path: str) -> None:
    """Codex sees a user's fullest limits as the windows, and not the real plan."""
    response = get(running, path, ALICE).json()
    assert response["plan_type"] == "business"
    rate_limit = response["rate_limit"]
    assert (rate_limit["allowed"], rate_limit["limit_reached"]) == (True, False)
    assert rate_limit["secondary_window"]["used_percent"] == 50
    assert rate_limit["secondary_window"]["limit_window_seconds"] == pytest.approx(7 * 86400, abs=60)
    assert rate_limit["primary_window"]["reset_at"] > time.time()
    assert get(running, path, BOB).json()["rate_limit"] == {
        "allowed": True,
        "limit_reached": False,
        "primary_window": None,
        "secondary_window": None,
    }


@pytest.mark.parametrize("path", CODEX_PATHS)
def test_codex_usage_of_an_admin(running: RunningService, path: str) -> None:
    """Codex sees the subscription's windows for an admin."""
    response = get(running, path).json()
    assert response["plan_type"] == "plus"
    windows = response["rate_limit"]["primary_window"], response["rate_limit"]["secondary_window"]
    assert [window["used_percent"] for window in windows] == [12, 34]
    assert [window["limit_window_seconds"] for window in windows] == [5 * 3600, 7 * 86400]
    assert response["credits"] == {"has_credits": False, "unlimited": False, "balance": None}


def test_codex_usage_when_a_limit_is_reached(service: ServiceFactory) -> None:
    """The response agrees with the 429."""
    entries = [{"name": "alice", "token": ALICE, "limits": [{"per": "day", "requests": 1}]}]
    running = service(workers=1, user_entries=entries)
    send_turn(running, ALICE)
    rate_limit = get(running, CODEX_PATHS[0], ALICE).json()["rate_limit"]
    assert (rate_limit["allowed"], rate_limit["limit_reached"]) == (False, True)
    assert rate_limit["primary_window"]["used_percent"] == 100
    assert rate_limit["primary_window"]["limit_window_seconds"] == 86400


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(("/ocm/v1/usage", "/ocm/v1/status", *CODEX_PATHS, "/metrics")),
    parameters=st.dictionaries(
        st.sampled_from(("user", "by", "since", "until", "name")),
        st.sampled_from(("bob-the-second", "alice", "root", "carol", "user", "user,model", "0", "", "*", "%", "hour"))
        | st.text(max_size=8),
        max_size=3,
    ),
)
def test_users_never_see_each_other(running: RunningService, path: str, parameters: dict[str, str]) -> None:
    """Whatever alice requests, nothing reveals bob or the subscription; naming him is like naming nobody."""
    response = get(running, path, ALICE, **parameters)
    assert response.status_code in (200, 400, 403)
    assert "bob" not in response.text
    assert "root" not in response.text
    assert "plus" not in response.text
    assert '"service"' not in response.text
    if parameters.get("user") in ("bob-the-second", "root"):
        other = get(running, path, ALICE, **{**parameters, "user": "carol"})
        assert (other.status_code, timeless(other)) == (response.status_code, timeless(response))


@pytest.mark.parametrize("path", ["/ocm/v1/status", "/ocm/v1/usage", *CODEX_PATHS])
def test_strangers_see_nothing(running: RunningService, path: str) -> None:
    """Without a valid token there is a challenge and nothing else."""
    for token in (None, "sk-ocm-of-nobody-0123456789"):
        response = get(running, path, token)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="ocm"'


def test_open_without_users(service: ServiceFactory) -> None:
    """If the API requires no token, neither do these endpoints."""
    running = service(users={}, workers=1)
    assert get(running, "/ocm/v1/status", None).json()["service"]["credential"]["usable"]
    assert get(running, "/ocm/v1/usage", None).status_code == 200
    assert get(running, "/metrics", None).status_code == 200
    response = get(running, CODEX_PATHS[0], None).json()
    assert (response["plan_type"], response["rate_limit"]["primary_window"]) == ("plus", None)


def test_credential_problem_is_readable(service: ServiceFactory) -> None:
    """Admins see what is wrong with the credential, without its path or content."""
    running = service(credential=None, user_entries=USERS, workers=1)
    credential = get(running, "/ocm/v1/status").json()["service"]["credential"]
    assert not credential["usable"]
    assert "codex login" in credential["problem"]
    assert str(running.folder) not in json.dumps(credential)
