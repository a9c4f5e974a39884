"""Several accounts: each serves its own users, with its own credential, refreshes, windows and usage file."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from ocm_wsgi.errors import CredentialRejected
from ocm_wsgi.pools.account import UpstreamAccount, UpstreamAccounts
from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.api_requests import post
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory

CAROL = "sk-ocm-carol-0123456789abcdef"
USERS = [
    {"name": "alice", "token": ALICE, "credential": "a"},
    {"name": "bob", "token": BOB, "credential": "b"},
    {"name": "carol", "token": CAROL, "credential": "b", "admin": True},
]


def rows(running: RunningService) -> Counter[tuple[str, str]]:
    """Return how many turns there are of each user and credential."""
    database = Database(f"sqlite:///{running.settled_database()}")
    with database.read() as connection:
        found = connection.execute(sa.select(db.turn.c.user, db.turn.c.credential)).all()
    database.close()
    return Counter((row.user, row.credential) for row in found)


def windows(used_5h: float, used_weekly: float, *, plan: str = "plus") -> dict[str, Any]:
    """Return the windows of an account, which have just begun."""
    now = int(time.time())
    return {
        "plan_type": plan,
        "primary": {"used_percent": used_5h, "window_minutes": 300, "reset_at": now + 5 * 3600},
        "secondary": {"used_percent": used_weekly, "window_minutes": 10080, "reset_at": now + 7 * 86400},
    }


def test_each_user_is_served_by_their_account(service: ServiceFactory, tmp_path: Path) -> None:
    """With its credential, recorded under its tag, in its usage file; a refusal of one does not touch the other."""
    running = service(
        credentials={tag: {"usages_path": str(tmp_path / f"{tag}-usages.json")} for tag in "ab"}, user_entries=USERS
    )
    simulator = running.simulator
    for token in (ALICE, BOB, BOB, CAROL):
        assert post(running, token=token).status_code == 200
    assert [turn.account for turn in simulator.turns] == ["acct-a", "acct-b", "acct-b", "acct-b"]
    assert {seen.field("ChatGPT-Account-Id") for seen in simulator.requests} == {"acct-a", "acct-b"}
    assert rows(running) == {("alice", "a"): 1, ("bob", "b"): 2, ("carol", "b"): 1}
    simulator.plan(Plan(status=500), account="acct-a")
    assert (post(running, token=BOB).status_code, post(running, token=ALICE).status_code) == (200, 500)
    running.stop()
    for tag, users in (("a", {"alice": 1}), ("b", {"bob": 3, "carol": 1})):
        usages = json.loads((tmp_path / f"{tag}-usages.json").read_text())
        (combination,) = usages["combinations"]
        counts = {name: of_user["request_count"] for name, of_user in combination["by_user"].items()}
        assert counts == users


def test_each_account_refreshes_its_own_tokens(service: ServiceFactory) -> None:
    """Once each, and into its own file."""
    running = service(credentials={"a": {}, "b": {}}, user_entries=USERS)
    before = {tag: (running.folder / f"{tag}.json").read_text() for tag in "ab"}
    running.simulator.expire()
    for token in (ALICE, BOB, ALICE, BOB):
        assert post(running, token=token).status_code == 200
    assert [refresh.outcome for refresh in running.simulator.refreshes] == ["rotated", "rotated"]
    after = {tag: json.loads((running.folder / f"{tag}.json").read_text()) for tag in "ab"}
    for tag in "ab":
        assert after[tag]["tokens"]["account_id"] == f"acct-{tag}"
        assert after[tag]["tokens"]["refresh_token"] not in before[tag]


def test_an_account_is_not_used_beyond_its_cap(service: ServiceFactory) -> None:
    """Not even by an admin: what is above it is for the account's own use. The other accounts are not affected."""
    running = service(credentials={"a": {}, "b": {"reserve_weekly": 30}}, user_entries=USERS, workers=1)
    simulator = running.simulator
    simulator.account_rate_limits["acct-a"] = windows(20, 70)
    simulator.account_rate_limits["acct-b"] = windows(20, 70)
    for token in (ALICE, BOB):
        assert post(running, token=token).status_code == 200
    assert _status_of(running, CAROL, until=429) == 429
    refusal = post(running, token=BOB)
    assert refusal.status_code == 429
    error = refusal.json()["error"]
    assert error["type"] == "usage_limit_reached"
    assert error["resets_at"] == simulator.account_rate_limits["acct-b"]["secondary"]["reset_at"]
    assert post(running, token=ALICE).status_code == 200


def _status_of(running: RunningService, token: str, *, until: int) -> int:
    """Return the status of a turn, once the service has stored what upstream reported, or at the end of 30 s."""
    deadline = time.monotonic() + 30
    status = post(running, token=token).status_code
    while status != until and time.monotonic() < deadline:
        status = post(running, token=token).status_code
    return status


def test_requests_without_users_are_served_by_the_first(service: ServiceFactory, simulator: Simulator) -> None:
    """As in sing-box."""
    running = service(credentials={"a": {}, "b": {}}, users={})
    assert post(running).status_code == 200
    assert [turn.account for turn in simulator.turns] == ["acct-a"]
    assert rows(running) == {("", "a"): 1}


def test_a_user_of_the_database_is_bound_by_name(service: ServiceFactory) -> None:
    """From the next request on, in every worker; without a name, the first account serves them."""
    running = service(credentials={"a": {}, "b": {}}, users={})
    database = Database(f"sqlite:///{running.state_path}/ocm.db")
    accounts = Accounts((), database)
    token = accounts.add(User("dora"), actor="cli")
    assert post(running, token=token).status_code == 200
    accounts.update("dora", lambda user: User("dora", credential="b"), actor="cli")
    assert post(running, token=token).status_code == 200
    accounts.update("dora", lambda user: User("dora", credential="gone"), actor="cli")
    refusal = post(running, token=token)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "credential_rejected")
    assert "no longer exists" in refusal.json()["error"]["message"]
    assert "gone" not in refusal.text
    database.close()
    assert [turn.account for turn in running.simulator.turns] == ["acct-a", "acct-b"]


def test_the_status_shows_each_account_to_admins_alone(service: ServiceFactory) -> None:
    """Their states and windows. Others learn neither that there are several, nor which serves them."""
    running = service(credentials={"a": {}, "b": {}}, user_entries=USERS)
    (running.folder / "a.json").unlink()
    found = get(running, "/ocm/v1/status", CAROL).json()["service"]["credentials"]
    assert [(each["tag"], each["credential"]["usable"]) for each in found] == [("a", False), ("b", True)]
    assert set(get(running, "/ocm/v1/status", BOB).json()) == {"user"}
    # One of two serves its users: the service is ready.
    assert get(running, "/ocm/readyz", BOB).status_code == 200
    assert post(running, token=BOB).status_code == 200
    usage = get(running, "/ocm/v1/usage?by=credential", CAROL).json()
    assert [(row["credential"], row["turns"]) for row in usage["rows"]] == [("b", 1)]
    refused = get(running, "/ocm/v1/usage?by=credential", BOB)
    assert refused.status_code == 400
    assert "credential" not in refused.text
    metrics = get(running, "/metrics", CAROL).text
    assert 'ocm_credential_usable{credential="a"} 0.0' in metrics
    assert 'ocm_credential_usable{credential="b"} 1.0' in metrics
    refused = post(running, token=ALICE)
    assert (refused.status_code, post(running, token=BOB).status_code) == (503, 200)


def get(running: RunningService, target: str, token: str) -> Any:
    """Send a GET request, ignoring the machine's proxy settings."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(running.url + target, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_an_unknown_credential_is_refused_by_name_in_the_log_only() -> None:
    """The client learns no tag."""
    accounts = UpstreamAccounts({"a": UpstreamAccount("a", None, None, None)})  # type: ignore[arg-type]
    assert accounts.of(User("alice")).tag == accounts.of(User("alice", credential="a")).tag == "a"
    with pytest.raises(CredentialRejected) as refusal:
        accounts.of(User("alice", credential="secret-tag"))
    assert "secret-tag" not in refusal.value.message
    assert "secret-tag" in (refusal.value.detail or "")
