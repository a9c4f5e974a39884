"""``ocm credentials``, and ``--credential`` of the other commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage.database import Database


@pytest.fixture
def two(folder: Path, simulator: Simulator) -> Path:
    """Configure two accounts, of which only the first is signed in, and return the folder."""
    (folder / "work.json").write_text(json.dumps(simulator.credential(account="acct-work", plan="pro")))
    (folder / "work.json").chmod(0o600)
    document = {
        "state_path": "state",
        "auth_base_url": simulator.auth_base_url,
        "credentials": [
            {"tag": "work", "credential_path": "work.json", "limit_weekly": 60},
            {"tag": "own", "credential_path": "own.json"},
        ],
        "users": [{"name": "carol", "token": "token-of-carol", "credential": "own"}],
    }
    (folder / "ocm.json").write_text(json.dumps(document))
    return folder


def note(folder: Path, credential: str, used_5h: float, used_weekly: float) -> int:
    """Store what upstream reports of an account's windows, and return when its week resets."""
    database = Database(f"sqlite:///{folder}/state/ocm.db")
    history, now = WindowHistory(database), int(time.time())
    short, week = RateLimitWindow(used_5h, 300, now + 3600), RateLimitWindow(used_weekly, 10080, now + 86400)
    history.note(credential, RateLimits((RateLimit("codex", short, week),)), time.time())
    history.flush()
    database.close()
    return week.reset_at


def test_credentials_lists_each_account(two: Path, run: Callable[..., Result]) -> None:
    """With its state in words and who uses it; and how to sign in to those that need it."""
    run("add-user", "dora", "--credential", "work")
    run("add-user", "emil")
    note(two, "work", 10, 40)
    result = run("credentials", COLUMNS="160")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    work = next(line for line in lines if line.startswith("work"))
    for text in ("ready", "acct-work@example.com (pro)", "10.0%", "40.0%", "dora, emil"):
        assert text in work
    own = next(line for line in lines if line.startswith("own"))
    assert "signed out" in own
    assert "carol" in own
    assert "ocm login --credential own" in result.output


def test_credentials_as_json(two: Path, run: Callable[..., Result]) -> None:
    """The state is a word that programs can compare, and contains no token."""
    reset = note(two, "work", 10, 60)
    result = run("credentials", "--json")
    work, own = json.loads(result.stdout)
    assert (work["tag"], work["state"], work["plan_type"], work["email"]) == (
        "work",
        "used_up",
        "pro",
        "acct-work@example.com",
    )
    assert work["used_up_until"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(reset))
    assert (work["cap_5h"], work["cap_weekly"], work["users"]) == (99, 60, [])
    assert [(window["period"], window["used_percent"]) for window in work["windows"]] == [("5h", 10), ("week", 60)]
    assert (own["state"], own["problem"], own["users"]) == ("signed_out", "signed out", ["carol"])
    assert "eyJ" not in result.output


def test_one_account_needs_no_choice(folder: Path, run: Callable[..., Result], run_json: Callable[..., Any]) -> None:
    """A service without ``credentials`` has one, named default."""
    result = run("credentials")
    assert result.exit_code == 1
    assert "default" in result.output
    assert "ocm login\n" in result.output
    assert run_json("add-user", "dora")["user"]["credential"] is None
    assert run_json("update-user", "dora", "--credential", "default")["credential"] == "default"
    assert run_json("update-user", "dora", "--first-credential")["credential"] is None


@pytest.mark.parametrize("command", ["login", "logout"])
def test_a_sign_in_needs_a_choice_among_several(two: Path, run: Callable[..., Result], command: str) -> None:
    """Which one is never guessed."""
    result = run(command)
    assert (result.exit_code, "choose one with --credential: work, own" in result.output) == (2, True)
    result = run(command, "--credential", "wrk")
    assert (result.exit_code, "'wrk' is no credential; the configuration has: work, own" in result.output) == (2, True)


def test_login_signs_one_account_in(two: Path, simulator: Simulator, run: Callable[..., Result]) -> None:
    """Into its own file; logout signs that one out."""
    before = (two / "work.json").read_text()
    simulator.device_polls = 0
    result = run("login", "--credential", "own")
    assert result.exit_code == 0, result.output
    assert json.loads((two / "own.json").read_text())["tokens"]["account_id"]
    assert (two / "work.json").read_text() == before
    assert run("logout", "--credential", "own", "--yes").exit_code == 0
    assert not (two / "own.json").exists()
    assert (two / "work.json").read_text() == before


def test_status_names_each_account(two: Path, run: Callable[..., Result]) -> None:
    """With the windows of each."""
    note(two, "work", 10, 40)
    output = run("status", COLUMNS="160").output
    assert "Credential work  ChatGPT pro" in output
    assert "Credential own" in output
    assert "work, week: 40.0% used" in output
    found = json.loads(run("status", "--json").stdout)
    assert [each["tag"] for each in found["credentials"]] == ["work", "own"]
    assert [window["used_percent"] for window in found["windows"]] == [10, 40]


def test_check_names_the_account_to_sign_in(two: Path, run: Callable[..., Result]) -> None:
    """Its remedy is the whole command."""
    findings = json.loads(run("check", "--json").stdout)["findings"]
    missing = next(finding for finding in findings if finding["code"] == "missing")
    assert missing["remedy"] == "ocm login --credential own"


@pytest.fixture
def pooled(two: Path) -> Path:
    """Put both accounts into a pool."""
    document = json.loads((two / "ocm.json").read_text())
    document["credentials"].append({"type": "balancer", "tag": "all", "credentials": ["work", "own"]})
    document["users"][0]["credential"] = "all"
    (two / "ocm.json").write_text(json.dumps(document))
    return two


def test_pause_and_resume(pooled: Path, run: Callable[..., Result]) -> None:
    """Take an account out of its pools, and back; any block ends with it."""
    assert run("pause", "work").exit_code == 0
    work, own = json.loads(run("credentials", "--json").stdout)
    assert (work["state"], work["blocked"]) == ("paused", {"reason": "paused", "until": None})
    assert (work["users"], own["users"], own["blocked"]) == (["carol"], ["carol"], None)
    assert "paused" in run("credentials", COLUMNS="160").output
    assert json.loads(run("resume", "work", "--json").stdout) == {"tag": "work", "was_blocked": True}
    assert "neither paused nor blocked" in run("resume", "work").output
    assert json.loads(run("credentials", "--json").stdout)[0]["state"] == "ready"


def test_credentials_shows_blocks(pooled: Path, run: Callable[..., Result]) -> None:
    """In words, and until when."""
    database = Database(f"sqlite:///{pooled}/state/ocm.db")
    until = int(time.time()) + 5000
    Blocks(database).block("work", until, "deactivated")
    database.close()
    work, _ = json.loads(run("credentials", "--json").stdout)
    assert (work["state"], work["blocked"]["reason"]) == ("blocked", "deactivated")
    assert work["blocked"]["until"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
    assert "deactivated by OpenAI; tried again until" in run("credentials", COLUMNS="200").output


def test_only_members_of_pools_can_be_paused(two: Path, run: Callable[..., Result]) -> None:
    """Nobody else could serve the users of the others."""
    result = run("pause", "work")
    assert (result.exit_code, "work is in no pool" in result.output) == (2, True)


def test_a_pool_cannot_sign_in(pooled: Path, run: Callable[..., Result]) -> None:
    """But users can be bound to it."""
    result = run("login", "--credential", "all")
    assert (result.exit_code, "'all' is no credential" in result.output) == (2, True)
    assert json.loads(run("add-user", "dora", "--credential", "all", "--json").stdout)["user"]["credential"] == "all"
