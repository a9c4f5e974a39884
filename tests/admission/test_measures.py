"""Limits in percent of a pool: they are of all its accounts together."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ocm_wsgi.accounting.window_history import Sample, WindowState
from ocm_wsgi.admission.measures import Measure, pool_measure
from ocm_wsgi.cli import ocm
from ocm_wsgi.errors import UsageLimitReached
from ocm_wsgi.quota.limits import Cycle, Limit
from ocm_wsgi.simulator import Simulator
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.user import User
from tests.quota.subscription import Shared

WEEK = 7 * 86400


def state(percent_per_usd: float | None) -> WindowState:
    """Return a window in which a dollar uses this much."""
    return WindowState(Sample(Cycle(0, WEEK), 1.0, 50.0), percent_per_usd)


@pytest.mark.parametrize(
    ("weights", "rates", "expected"),
    [
        # One account is itself.
        ({"a": 1}, {"a": 4}, 4),
        # Two of the same plan have twice as much.
        ({"a": 1, "b": 1}, {"a": 4, "b": 4}, 2),
        # A dollar uses a tenth of the large plan's percentage; together they are eleven small ones.
        ({"a": 1, "b": 10}, {"a": 4, "b": 0.4}, 4 / 11),
        # One that has not been used yet counts by its plan.
        ({"a": 1, "b": 3}, {"a": 4, "b": None}, 1),
        ({"a": 1, "b": 1}, {"a": None, "b": None}, None),
    ],
)
def test_pool_measure(weights: dict[str, float], rates: dict[str, float | None], expected: float | None) -> None:
    """What a dollar uses of all accounts together."""
    found = pool_measure(weights, {tag: None if rate is None else state(rate) for tag, rate in rates.items()})
    assert found.cycle is None
    if expected is None:
        assert found == Measure(None)
    else:
        assert found.percent_per_usd == pytest.approx(expected)


def pooled(tmp_path: Path, database: Database) -> Shared:
    """Return a service whose users are served by a pool of two accounts of the same plan."""
    entries: list[dict[str, Any]] = [
        {"tag": "a"},
        {"tag": "b"},
        {"type": "balancer", "tag": "p", "credentials": ["a", "b"]},
    ]
    (tmp_path / "ocm.json").write_text(json.dumps({"credentials": entries}))
    return Shared(tmp_path, database)


def test_a_percentage_is_of_the_pool(tmp_path: Path, database: Database) -> None:
    """Whichever account has served the user; the same use would be twice as much of one account."""
    shared = pooled(tmp_path, database)
    end = int(shared.clock.now) + WEEK
    for credential in ("a", "b"):
        shared.note_week(credential, 0, end)
        shared.record("alice", cost_usd=10, credential=credential)
        shared.clock.now += 60
        shared.note_week(credential, 20, end)
    limit = Limit(Decimal(30), "percent", "week")
    (of_pool,) = shared.admission.limit_usage(User("alice", limits=(limit,), credential="p"))
    assert float(of_pool.used) == pytest.approx(20, rel=0.1)
    (of_account,) = shared.admission.limit_usage(User("alice", limits=(limit,), credential="a"))
    assert float(of_account.used) == pytest.approx(40, rel=0.1)


def test_show_user_measures_by_the_plans(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    """As the service does, which knows them from the credentials."""
    for tag, plan in (("a", "plus"), ("b", "pro")):
        (tmp_path / f"{tag}.json").write_text(json.dumps(simulator.credential(account=tag, plan=plan)))
    entries: list[dict[str, Any]] = [{"tag": tag, "credential_path": f"{tag}.json"} for tag in "ab"]
    entries.append({"type": "balancer", "tag": "p", "credentials": ["a", "b"]})
    user = {
        "name": "alice",
        "token": "t",
        "credential": "p",
        "limits": [{"per": each, "percent": 30} for each in ("week", "month")],
    }
    document = {"credentials": entries, "users": [user], "state_path": "state", "database_url": str(database.url)}
    (tmp_path / "ocm.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    shared = Shared(tmp_path, database)
    shared.clock.now = time.time() - 70
    end = int(shared.clock.now) + WEEK
    shared.note_week("a", 0, end)
    shared.record("alice", cost_usd=10, credential="a")
    shared.clock.now += 60
    shared.note_week("a", 22, end)
    result = CliRunner().invoke(ocm, ["show-user", "alice", "--json"])
    # A week or a month may have just begun.
    used = max(use["used"] for use in json.loads(result.stdout)["uses"])
    assert used == pytest.approx(2, rel=0.1)


def test_a_limit_of_the_pool_is_enforced(tmp_path: Path, database: Database) -> None:
    """With a reset at a fixed time, as its accounts reset at different ones. The caps of its accounts are its own."""
    shared = pooled(tmp_path, database)
    end = int(shared.clock.now) + WEEK
    shared.note_week("a", 0, end)
    shared.record("alice", cost_usd=10, credential="a")
    shared.clock.now += 60
    shared.note_week("a", 99.5, end)
    alice = User("alice", limits=(Limit(Decimal(60), "percent", "week"),), credential="p")
    shared.admission.admit(alice, "gpt-5.5", credential="p")()
    strict = User("alice", limits=(Limit(Decimal(40), "percent", "week"),), credential="p")
    with pytest.raises(UsageLimitReached) as refusal:
        shared.admission.admit(strict, "gpt-5.5", credential="p")
    assert refusal.value.members["resets_at"] != end
    with pytest.raises(UsageLimitReached, match="as far as it may be used here"):
        shared.admission.admit(User("bob", credential="a"), "gpt-5.5", credential="a")
