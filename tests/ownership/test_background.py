"""A response in the background is charged once it has ended: to the user who asked for it, and once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from ocm_wsgi.simulator import Plan
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.conftest import ALICE, RunningService
from tests.ownership.conftest import CAROL, Call

TURN = {"model": "gpt-5.5", "input": "Write a long poem.", "background": True}
USAGE = {"input_tokens": 1234, "cached_tokens": 1024, "output_tokens": 56_789, "reasoning_tokens": 7}


def turns(running: RunningService) -> list[dict[str, Any]]:
    """Return the turns in the ledger, the newest first."""
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        rows = connection.execute(sa.select(db.turn).order_by(db.turn.c.id.desc())).mappings()
        return [dict(row) for row in rows]


def sums(running: RunningService) -> dict[str, int]:
    """Return the sums over all of alice's turns."""
    names = ("turns", "turns_estimated", "turns_without_usage", "input_tokens", "output_tokens", "cost_micro_usd")
    columns = [sa.func.sum(db.turn_hour.c[name]).label(name) for name in names]
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        row = connection.execute(sa.select(*columns).where(db.turn_hour.c.user == "alice")).mappings().one()
        return {name: int(row[name] or 0) for name in names}


def start(call: Call, running: RunningService, **members: Any) -> str:
    """Start a response in the background, and return its ID."""
    running.simulator.plan(Plan(usage=USAGE, text="word " * 200))
    answer = call(ALICE, "POST", "responses", json={**TURN, **members})
    assert answer.status_code == 200
    if members.get("stream"):
        return str(json.loads(answer.text.partition("data: ")[2].partition("\n")[0])["response"]["id"])
    assert answer.json()["status"] == "queued"
    return str(answer.json()["id"])


def fetch(call: Call, token: str, response_id: str, how: str) -> None:
    """Bring the end of a response."""
    if how == "cancel":
        assert call(token, "POST", f"responses/{response_id}/cancel").json()["status"] == "cancelled"
    elif how == "stream":
        text = call(token, "GET", f"responses/{response_id}?stream=true&starting_after=7").text
        assert '"sequence_number":8,' in text
        assert "response.created" not in text
        assert "response.completed" in text
    else:
        assert call(token, "GET", f"responses/{response_id}").json()["status"] == "completed"


@pytest.mark.parametrize("how", ["get", "stream", "cancel"])
@pytest.mark.parametrize("token", [ALICE, CAROL], ids=["its user", "an admin"])
def test_the_end_settles_the_turn(call: Call, platform: RunningService, how: str, token: str) -> None:
    """Queued is not completed; the true usage replaces what was charged until then, in the row and in the sums."""
    before = sums(platform)
    response_id = start(call, platform)
    queued = turns(platform)[0]
    assert (queued["status"], queued["user"]) == ("in_progress", "alice")
    assert queued["estimated"] or queued["input_tokens"] is None
    for _ in range(2):
        fetch(call, token, response_id, how)
        settled = turns(platform)[0]
        assert settled["id"] == queued["id"]
        assert {name: settled[name] for name in USAGE} == USAGE
        assert (settled["user"], settled["estimated"]) == ("alice", False)
        assert settled["status"] == ("incomplete" if how == "cancel" else "completed")
        assert settled["cost_micro_usd"] > 100_000
    after = sums(platform)
    changes = {name: after[name] - before[name] for name in after}
    assert changes == {
        "turns": 1,
        "turns_estimated": 0,
        "turns_without_usage": 0,
        "input_tokens": USAGE["input_tokens"],
        "output_tokens": USAGE["output_tokens"],
        "cost_micro_usd": settled["cost_micro_usd"],
    }


def test_a_response_that_goes_on_settles_nothing(call: Call, platform: RunningService) -> None:
    """As long as it is in progress, and when something inside it is fetched."""
    platform.simulator.background_polls = 2
    try:
        response_id = start(call, platform)
    finally:
        platform.simulator.background_polls = 0
    for _ in range(2):
        assert call(ALICE, "GET", f"responses/{response_id}").json()["status"] == "in_progress"
        assert call(ALICE, "GET", f"responses/{response_id}/input_items").status_code == 200
        assert turns(platform)[0]["status"] == "in_progress"
    fetch(call, ALICE, response_id, "get")
    assert turns(platform)[0]["status"] == "completed"


def test_a_streamed_response_that_was_read_to_its_end_is_settled_at_once(call: Call, platform: RunningService) -> None:
    """Fetching it afterwards changes nothing."""
    response_id = start(call, platform, stream=True)
    row = turns(platform)[0]
    assert (row["status"], row["output_tokens"], row["estimated"]) == ("completed", USAGE["output_tokens"], False)
    before = sums(platform)
    fetch(call, ALICE, response_id, "get")
    assert sums(platform) == before
    assert turns(platform)[0] == row
