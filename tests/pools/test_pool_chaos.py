"""A pool under random faults, with several workers, some of which are killed: nothing is lost, repeated or mixed up."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.api_requests import TURN, post
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.pools.test_pool import start

TURNS = 48
THREADS = 6
FAULTS = (
    Plan(status=429, error=("rate_limit_exceeded", "Slow down."), fields=(("Retry-After", "1"),)),
    Plan(status=503, error=("overloaded", "Later.")),
    Plan(terminal="failed", error=("server_is_overloaded", "Later."), events=0, output=(), usage=None),
    Plan(cut_after=3),
)


@dataclass(frozen=True)
class Result:
    """What a client got.

    :ivar response_id: of the response, if it arrived in full.
    """

    marker: str
    status: int
    response_id: str | None


def take(running: RunningService, number: int) -> Result:
    """Take a turn, with a text that no other one has."""
    marker, token = f"marker-{number:03}", (ALICE, BOB)[number % 2]
    headers = {"session-id": f"s{number % 5}"} if number % 3 else {}
    try:
        response = post(running, token=token, headers=headers, json={**TURN, "input": marker})
    except requests.RequestException:
        return Result(marker, 0, None)
    completed = [line for line in response.text.splitlines() if '"type":"response.completed"' in line]
    response_id = json.loads(completed[-1].removeprefix("data:"))["response"]["id"] if completed else None
    return Result(marker, response.status_code, response_id)


def kill_a_worker(running: RunningService, source: random.Random) -> None:
    """Kill one of gunicorn's workers."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    with suppress(ProcessLookupError):
        os.kill(int(source.choice(children)), signal.SIGKILL)


def rows(running: RunningService) -> list[Any]:
    """Return all recorded turns."""
    database = Database(f"sqlite:///{running.settled_database()}")
    with database.read() as connection:
        found = connection.execute(sa.select(db.turn)).all()
    database.close()
    return list(found)


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_and_killed_workers(service: ServiceFactory, simulator: Simulator, seed: int) -> None:
    """Each account gets a turn once at most, no turn is generated twice, and each has one row of its account."""
    running = start(service, workers=3)
    source = random.Random(seed)
    for account in ("acct-a", "acct-b", "acct-c"):
        for _ in range(TURNS // 6):
            simulator.plan(source.choice(FAULTS), account=account)
            simulator.plan(Plan(events=5, interval=0.01), account=account, times=source.randrange(1, 3))
    with ThreadPoolExecutor(THREADS) as threads:
        pending = [threads.submit(take, running, number) for number in range(TURNS)]
        for _ in range(2):
            seen = len(simulator.requests)
            simulator.wait_for(lambda seen=seen: len(simulator.requests) > seen + 8)  # type: ignore[misc]
            kill_a_worker(running, source)
        results = [each.result() for each in pending]
    asked = Counter(
        (json.loads(seen.body)["input"], seen.field("ChatGPT-Account-Id"))
        for seen in simulator.requests
        if seen.method == "POST"
    )
    assert max(asked.values()) == 1
    markers = {seen.number: json.loads(seen.body)["input"] for seen in simulator.requests if seen.method == "POST"}
    generated = Counter(markers[turn.number] for turn in simulator.turns if turn.status in ("completed", "cut"))
    assert max(generated.values()) == 1
    accounts = {turn.response_id: turn.account.removeprefix("acct-") for turn in simulator.turns}
    arrived = Counter(accounts[result.response_id] for result in results if result.response_id is not None)
    assert sum(arrived.values()) >= TURNS // 3
    # A record that a killed worker has left is written by another one.
    deadline = time.monotonic() + 60
    while True:
        recorded = Counter(row.credential for row in rows(running) if row.status == "completed")
        if all(recorded[tag] >= count for tag, count in arrived.items()) or time.monotonic() > deadline:
            break
    completed = Counter(turn.account.removeprefix("acct-") for turn in simulator.turns if turn.status == "completed")
    for tag in "abc":
        assert arrived[tag] <= recorded[tag] <= completed[tag]
