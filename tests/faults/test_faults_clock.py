"""The wall clock jumps by hours and days: nothing times out early, nothing hangs, nothing is counted twice."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import requests

from ocm_wsgi.simulator import Gate, Plan
from tests.conftest import ALICE, BOB
from tests.credentials.credential_home import helpers_of
from tests.faults.clocks import DAY, HOUR, WallClock
from tests.faults.outages import locked_by_another
from tests.faults.stack import (
    BODY,
    WAIT_SECONDS,
    Answer,
    Background,
    Stack,
    bystander,
    eventually,
    head,
    upstream_connections,
    workers_of,
)
from tests.faults.websockets_through import open_socket, statuses

JUMPS = {"hours-ahead": 2 * HOUR, "days-ahead": 10 * DAY, "hours-behind": -2 * HOUR, "days-behind": -10 * DAY}


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The wall clock of the services that the test starts."""
    return WallClock(tmp_path / "clock")


def durations(stack: Stack) -> list[tuple[int, int]]:
    """Return the milliseconds to the first byte and to the end of each turn in the ledger."""
    path = stack.running.state_path / "ocm.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT first_byte_ms, duration_ms FROM turn").fetchall()


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_clock_jumps_under_traffic(start_stack: Callable[..., Stack], clock: WallClock, jump: int) -> None:
    """Streams, sockets and incomplete requests continue; each turn is recorded once, with correct durations."""
    stack = start_stack(workers=2, environment=clock.environment)
    request = head(ALICE, f"Content-Length: {len(BODY)}", "Connection: close") + BODY
    with bystander(stack), open_socket(stack) as client, stack.socket("direct") as slow:
        gate = Gate().after(3)
        stack.simulator.plan(Plan(gate=gate))
        client.ask()
        assert gate.reached.wait(WAIT_SECONDS)
        slow.sendall(request[:30])
        for ahead in (jump, 0, -jump, jump):
            clock.jump(ahead)
            answers = [Background(lambda: stack.turn(route="direct")) for _ in range(6)]
            assert [answer.answer().has_ended for answer in answers] == [True] * 6
        slow.sendall(request[30:])
        with slow.makefile("rb") as received:
            assert received.read().startswith(b"HTTP/1.1 200")
        gate.release()
        assert client.receive_turn()["type"] == "response.completed"
        assert client.turn() == "response.completed"
    assert eventually(lambda: len(stack.rows()) == 24 + 4)
    assert statuses(stack, client) == ["completed"] * 2
    assert {status for _, status, _ in stack.rows()} == {"completed"}
    assert len(stack.simulator.turns) == len({request_id for *_, request_id in stack.rows()}) + 1 == 28
    assert all(0 <= first <= whole < 60_000 for first, whole in durations(stack))
    assert stack.serves()


def test_clock_far_ahead_of_the_issuer(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """With a clock that is days ahead, tokens are refreshed once, although they appear to have expired on arrival."""
    stack = start_stack(workers=2, environment=clock.environment)
    simulator = stack.simulator
    assert eventually(lambda: stack.turn().has_ended and len(upstream_connections(stack.running)) == 2)
    for ahead in (10 * DAY, 0, 10 * DAY, -10 * DAY, 0):
        clock.jump(ahead)
        for _ in range(3):
            answers = [Background(lambda: stack.turn(route="direct")) for _ in range(8)]
            assert [answer.answer().status for answer in answers] == [200] * 8
        assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]
    simulator.expire()
    assert stack.serves()
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"] * 2


def test_clock_jumps_while_the_credential_is_refreshed(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """A refresh in progress completes normally, no request waits for a stale lock, and one refresh is enough."""
    stack = start_stack(workers=2, environment=clock.environment)
    simulator = stack.simulator
    assert stack.serves()
    simulator.expire()
    gate = Gate().at("rotated")
    simulator.plan(Plan(gate=gate), path="/oauth/token")
    streams: list[Background[Answer]] = []
    # One worker may accept all connections of a burst; it takes one request for each to refresh.
    for _ in range(20):
        streams += [Background(lambda: stack.turn(route="direct")) for _ in range(4)]
        if eventually(lambda: all(helpers_of(pid) for pid in workers_of(stack.running)), seconds=2):
            break
    assert gate.reached.wait(WAIT_SECONDS)
    assert all(helpers_of(pid) for pid in workers_of(stack.running))
    clock.jump(-10 * DAY)
    streams += [Background(lambda: stack.turn(route="direct")) for _ in range(4)]
    clock.jump(2 * HOUR - 10 * DAY)
    gate.release()
    assert [stream.answer().has_ended for stream in streams] == [True] * len(streams)
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_clock_jumps_across_a_limit(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Each day counts the turns that began in it, however the clock got there; no allowance is granted twice."""
    user = {"name": "alice", "token": ALICE, "limits": [{"per": "day", "requests": 2}]}
    stack = start_stack(workers=1, environment=clock.environment, user_entries=[user, {"name": "bob", "token": BOB}])
    taken = []
    # At noon, so that a day ends only when the clock jumps.
    noon = DAY // 2 - int(time.time()) % DAY
    for ahead in (0, 3 * DAY, 0, -3 * DAY, 3 * DAY, 0):
        clock.jump(noon + ahead)
        taken.append([stack.turn(ALICE).status for _ in range(3)].count(200))
        assert stack.serves()
    assert taken == [2, 2, 0, 2, 0, 0]


def test_clock_jumps_across_a_session(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """A dashboard cookie that is too old, or from the future, is not valid."""
    stack = start_stack(workers=1, environment=clock.environment)
    page = f"{stack.running.url}/ocm/"
    with requests.Session() as session:
        session.trust_env = False
        form = session.get(f"{page}sign-in", timeout=20)
        found = re.search(r'name="form_token" value="(\w+)"', form.text)
        assert found
        session.post(f"{page}sign-in", {"form_token": found[1], "bearer_token": ALICE}, timeout=20)

        def is_signed_in() -> bool:
            return session.get(f"{page}mine", timeout=20, allow_redirects=False).status_code == 200

        seen = []
        for ahead in (0, 6 * DAY, 8 * DAY, -HOUR, 0):
            clock.jump(ahead)
            seen.append(is_signed_in())
    assert seen == [True, True, False, False, True]


def test_clock_jumps_while_records_wait(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Records that wait for the database are written once, and a jump neither loses nor duplicates them."""
    stack = start_stack(workers=2, environment=clock.environment)
    answers = [stack.turn()]
    with locked_by_another(stack.running.state_path / "ocm.db"):
        for ahead in (10 * DAY, -10 * DAY):
            clock.jump(ahead)
            streams = [Background(lambda: stack.turn(ALICE)) for _ in range(4)]
            answers += [stream.answer() for stream in streams]
    clock.jump(0)
    assert all(answer.has_ended and answer.is_complete for answer in answers)
    assert [row[:2] for row in stack.rows_with(answers)] == [("alice", "completed")] * 9
    assert stack.serves()
    assert len(stack.rows_with(answers)) == 9


def test_clock_jumps_between_reports_of_upstreams_windows(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Reports that arrived while the clock was ahead do not override current ones: the reserve is enforced."""
    stack = start_stack(workers=1, environment=clock.environment, reserve_5h=20)
    simulator = stack.simulator
    primary = simulator.rate_limits["primary"]
    for ahead, used_percent in ((0, 30), (10 * DAY, 60), (0, 85)):
        clock.jump(ahead)
        simulator.rate_limits = {**simulator.rate_limits, "primary": {**primary, "used_percent": used_percent}}
        assert stack.turn(ALICE).has_ended
    # Directly, because nginx's limit for each address also answers 429.
    assert eventually(lambda: stack.turn(ALICE, route="direct").status == 429)
