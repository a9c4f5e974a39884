"""Many requests at once against a limit, through real gunicorn with several workers."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.conftest import ALICE, RunningService, ServiceFactory
from tests.relay.test_tunnel import open_websocket, receive_turn, run_turn, start_turn

#: What a turn uses at the simulator.
TOKENS = 1290


def take_turn(running: RunningService) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{running.url}/v1/responses",
            json={"model": "gpt-5.5", "stream": True, "input": "hi"},
            headers={"Authorization": f"Bearer {ALICE}"},
            timeout=60,
        )


def used(running: RunningService) -> tuple[int, int]:
    """Return the number of Alice's turns, and their tokens."""
    table = db.turn.c
    with closing(Database(f"sqlite:///{running.settled_database()}")) as database, database.read() as connection:
        tokens = sa.func.sum(table.input_tokens + table.output_tokens)
        count, total = connection.execute(sa.select(sa.func.count(), tokens).select_from(db.turn)).one()
    return count, total or 0


def at_once(running: RunningService, count: int, admitted: int) -> Counter[int]:
    """Send requests at once, and return their statuses. The admitted ones are held until all others are answered."""
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(gate=gate), times=count)
    with ThreadPoolExecutor(count) as pool:
        turns: list[Future[requests.Response]] = [pool.submit(take_turn, running) for _ in range(count)]
        try:
            pending = set(turns)
            while len(pending) > admitted:
                done, pending = wait(pending, timeout=60, return_when="FIRST_COMPLETED")
                assert done, "more turns are in progress than the limit has room for"
            assert running.simulator.wait_for(lambda: running.simulator.open_streams == admitted)
        finally:
            gate.release()
        return Counter(turn.result().status_code for turn in turns)


def limited(**limit: object) -> list[dict[str, object]]:
    return [{"name": "alice", "token": ALICE, "limits": [{"per": "month", **limit}]}]


def test_fifty_against_one_request(service: ServiceFactory, simulator: Simulator) -> None:
    """Of fifty requests at once, a limit with room for one lets one through, over three workers."""
    running = service(workers=3, user_entries=limited(requests=3))
    assert [take_turn(running).status_code for _ in range(2)] == [200, 200]
    assert at_once(running, 50, 1) == {200: 1, 429: 49}
    assert used(running)[0] == len(simulator.requests) == 3
    refused = take_turn(running)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "usage_limit_reached")


def test_twenty_against_tokens(service: ServiceFactory) -> None:
    """Of twenty turns at once as many start as the limit has room for; together they exceed it by one at most."""
    running = service(workers=3, user_entries=limited(tokens=10_000))
    for _ in range(3):
        assert take_turn(running).status_code == 200
    # 6,130 tokens are left. With four more in progress 970 are left for a fifth, and none for a sixth.
    assert at_once(running, 20, 5) == {200: 5, 429: 15}
    count, tokens = used(running)
    assert count == 8
    assert 10_000 <= tokens < 10_000 + TOKENS


def test_a_killed_worker_gives_its_reservations_back(service: ServiceFactory) -> None:
    """Turns of a worker that is killed are no longer in progress; the others' are."""
    running = service(workers=1, user_entries=limited(requests=10))
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(gate=gate), times=2)
    with ThreadPoolExecutor(2) as pool:
        turns = [pool.submit(take_turn, running) for _ in range(2)]
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == 2)
        (worker,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="ascii").split()
        os.kill(int(worker), signal.SIGKILL)
        for turn in turns:
            with pytest.raises(requests.RequestException):
                turn.result()
    gate.release()
    # Nothing was recorded of them, and nothing is in progress: all ten are left.
    for _ in range(10):
        assert take_turn(running).status_code == 200
    assert take_turn(running).status_code == 429


@pytest.mark.slow
def test_turns_on_websockets_count_at_once(service: ServiceFactory) -> None:
    """A turn in progress on a WebSocket counts towards the limit of one over HTTP, and the other way round."""
    running = service(workers=2, user_entries=limited(requests=2))
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(gate=gate), times=2)
    with open_websocket(running) as client, open_websocket(running) as second, ThreadPoolExecutor(1) as pool:
        start_turn(client)
        turn = pool.submit(take_turn, running)
        assert running.simulator.wait_for(lambda: gate.blocked == 2)
        (refusal,) = run_turn(second)
        assert json.loads(refusal)["error"]["code"] == "too_many_concurrent"
        assert take_turn(running).status_code == 429
        gate.release()
        assert turn.result().status_code == 200
        assert json.loads(receive_turn(client)[-1])["type"] == "response.completed"
        (refusal,) = run_turn(second)
        assert json.loads(refusal)["error"]["code"] == "usage_limit_reached"
