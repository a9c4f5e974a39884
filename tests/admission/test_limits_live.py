"""Users, models and limits as clients see them: through real gunicorn with several workers."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from ocm_wsgi.simulator import Plan, Simulator
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.forkserver import run_flask_ocm


def take_turn(running: RunningService, token: str = ALICE, model: str = "gpt-5.5", **fields: str) -> requests.Response:
    """Run one streamed turn of a user."""
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{running.url}/v1/responses",
            json={"model": model, "stream": True, "input": "hi"},
            headers={"Authorization": f"Bearer {token}", **fields},
            timeout=30,
        )


def flask_ocm(running: RunningService, *arguments: str) -> str:
    """Run one of the owner's commands against the running service, and return its output."""
    result = run_flask_ocm(
        *arguments,
        environment={
            "PATH": os.environ["PATH"],
            "HOME": str(running.folder),
            "OCM_CONFIG": str(running.folder / "ocm.json"),
        },
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def users(**limited: object) -> list[dict[str, object]]:
    """Return Alice with some limits, and Bob without any."""
    return [{"name": "alice", "token": ALICE, **limited}, {"name": "bob", "token": BOB}]


def test_a_model_that_is_not_allowed(service: ServiceFactory) -> None:
    """It gets a 400 with one sentence that names the model and those allowed; other users are not affected."""
    running = service(user_entries=users(models=["gpt-5.4*"]))
    answer = take_turn(running)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "model_not_allowed"
    assert "'gpt-5.5'" in answer.json()["error"]["message"]
    assert "gpt-5.4*" in answer.json()["error"]["message"]
    assert take_turn(running, model="gpt-5.4-mini").status_code == 200
    assert take_turn(running, BOB).status_code == 200
    assert len(running.simulator.requests) == 2


def test_a_limit_that_is_reached(service: ServiceFactory) -> None:
    """The request after the last one allowed gets a 429 that Codex does not retry, from every worker."""
    running = service(workers=3, user_entries=users(limits=[{"per": "month", "requests": 5}]))
    assert [take_turn(running).status_code for _ in range(5)] == [200] * 5
    for _ in range(6):
        answer = take_turn(running)
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert error["type"] == "usage_limit_reached"
        assert error["plan_type"]
        assert 0 < error["resets_at"] - time.time() <= 31 * 86400
    assert take_turn(running, BOB).status_code == 200
    assert len(running.simulator.requests) == 6


def test_the_reserve_is_the_owners(service: ServiceFactory, simulator: Simulator) -> None:
    """When only the reserve of the subscription is left, only admins are served."""
    entries = [{"name": "alice", "token": ALICE}, {"name": "bob", "token": BOB, "admin": True}]
    running = service(workers=1, user_entries=entries, reserve_weekly=20)
    reset_at = int(time.time()) + 86400
    window = {"used_percent": 85, "window_minutes": 10080, "reset_at": reset_at}
    simulator.rate_limits = {**simulator.rate_limits, "secondary": window}
    assert take_turn(running).status_code == 200
    deadline = time.monotonic() + 30
    while (answer := take_turn(running)).status_code == 200 and time.monotonic() < deadline:
        pass  # What upstream reported reaches the database a moment later.
    assert answer.status_code == 429
    assert answer.json()["error"]["resets_at"] == reset_at
    assert take_turn(running, BOB).status_code == 200


def test_concurrent_turns_are_counted_across_workers(service: ServiceFactory) -> None:
    """With two turns in progress, the third is refused; when one ends, there is room again."""
    running = service(workers=3, user_entries=users(max_concurrent=2))
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(gate=gate), times=2)
    with ThreadPoolExecutor(2) as pool:
        open_turns = [pool.submit(take_turn, running) for _ in range(2)]
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == 2)
        answer = take_turn(running)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert take_turn(running, BOB).status_code == 200
        gate.release()
        assert [turn.result().status_code for turn in open_turns] == [200, 200]
    assert take_turn(running).status_code == 200


def test_users_change_while_the_service_runs(service: ServiceFactory) -> None:
    """Adding, changing and removing a user and rotating a token take effect in every worker at the next request."""
    running = service(workers=4, users={"owner": BOB})

    def outcomes(token: str) -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            return {answer.status_code for answer in pool.map(lambda _: take_turn(running, token), range(16))}

    carol = json.loads(flask_ocm(running, "add-user", "carol", "--json"))["bearer_token"]
    assert outcomes(carol) == {200}
    rotated = json.loads(flask_ocm(running, "rotate-token", "carol", "--yes", "--json"))["bearer_token"]
    assert outcomes(carol) == {401}
    assert outcomes(rotated) == {200}
    flask_ocm(running, "update-user", "carol", "--models", "none-such")
    assert outcomes(rotated) == {400}
    flask_ocm(running, "remove-user", "carol", "--yes")
    assert outcomes(rotated) == {401}
    assert outcomes(BOB) == {200}
    found = [path for path in running.folder.rglob("*") if path.is_file() and carol.encode() in path.read_bytes()]
    assert found == []


def test_no_client_token_is_on_disk(service: ServiceFactory) -> None:
    """Neither the state nor the log contains a token in clear, of users in the database or in the configuration."""
    running = service(workers=2, arguments=("--log-level", "debug"))
    carol = json.loads(flask_ocm(running, "add-user", "carol", "--json"))["bearer_token"]
    for token in (ALICE, BOB, carol, carol + "x"):
        take_turn(running, token)
    assert running.stop() == 0
    configuration = running.folder / "ocm.json"
    files = [path for path in running.folder.rglob("*") if path.is_file() and path != configuration]
    assert len(files) > 3
    for token in (ALICE, BOB, carol):
        assert [path for path in files if token.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("limited", [True, False])
def test_a_database_that_cannot_be_read(service: ServiceFactory, limited: bool) -> None:
    """If limits cannot be checked, users with limits are refused and others are served; turns are kept on disk."""
    limits = {"limits": [{"per": "day", "requests": 100}]} if limited else {}
    running = service(workers=1, user_entries=users(**limits))
    assert take_turn(running).status_code == 200
    database = running.state_path / "ocm.db"
    for path in running.state_path.glob("ocm.db*"):
        path.unlink()
    database.mkdir()
    assert take_turn(running).status_code == (503 if limited else 200)
