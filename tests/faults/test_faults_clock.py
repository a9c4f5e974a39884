"""The wall clock leaps, by hours and days, forth and back: nothing hurries, nothing hangs, nothing is counted twice."""

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
from tests.faults.clocks import DAY, HOUR, WallClock
from tests.faults.outages import locked_by_another
from tests.faults.stack import BODY, WAIT_SECONDS, Background, Stack, bystander, eventually, head, upstream_connections
from tests.faults.websockets_through import statuses, talk

LEAPS = {"hours-ahead": 2 * HOUR, "days-ahead": 10 * DAY, "hours-behind": -2 * HOUR, "days-behind": -10 * DAY}


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The wall clock of the services of this test."""
    return WallClock(tmp_path / "clock")


def lasting(stack: Stack) -> list[tuple[int, int]]:
    """The milliseconds to the first octet and to the end of each turn in the ledger."""
    path = stack.running.state_path / "ocm.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT first_byte_ms, duration_ms FROM turn").fetchall()


@pytest.mark.parametrize("leap", LEAPS.values(), ids=LEAPS)
def test_clock_leaps_under_traffic(start_stack: Callable[..., Stack], clock: WallClock, leap: int) -> None:
    """Streams, sockets and half requests go on, each turn is recorded once, with times that are true."""
    stack = start_stack(workers=2, environment=clock.environment)
    request = head(ALICE, f"Content-Length: {len(BODY)}", "Connection: close") + BODY
    with bystander(stack), talk(stack) as client, stack.socket("direct") as slow:
        gate = Gate().after(3)
        stack.simulator.plan(Plan(gate=gate))
        client.ask()
        assert gate.reached.wait(WAIT_SECONDS)
        slow.sendall(request[:30])
        for ahead in (leap, 0, -leap, leap):
            clock.leap(ahead)
            answers = [Background(lambda: stack.turn(way="direct")) for _ in range(6)]
            assert [answer.answer().has_ended for answer in answers] == [True] * 6
        slow.sendall(request[30:])
        with slow.makefile("rb") as received:
            assert received.read().startswith(b"HTTP/1.1 200")
        gate.release()
        assert client.hear()["type"] == "response.completed"
        assert client.turn() == "response.completed"
    assert eventually(lambda: len(stack.rows()) == 24 + 4)
    assert statuses(stack, client) == ["completed"] * 2
    assert {status for _, status, _ in stack.rows()} == {"completed"}
    assert len(stack.simulator.turns) == len({request_id for *_, request_id in stack.rows()}) + 1 == 28
    assert all(0 <= first <= whole < 60_000 for first, whole in lasting(stack))
    assert stack.serves()


def test_clock_far_ahead_of_the_issuer(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """By a clock that is days ahead tokens are renewed once, not again and again for having ended before they came."""
    stack = start_stack(workers=2, environment=clock.environment)
    simulator = stack.simulator
    assert eventually(lambda: stack.turn().has_ended and len(upstream_connections(stack.running)) == 2)
    for ahead in (10 * DAY, 0, 10 * DAY, -10 * DAY, 0):
        clock.leap(ahead)
        for _ in range(3):
            answers = [Background(lambda: stack.turn(way="direct")) for _ in range(8)]
            assert [answer.answer().status for answer in answers] == [200] * 8
        assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]
    simulator.expire()
    assert stack.serves()
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"] * 2


def test_clock_leaps_while_the_credential_is_refreshed(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """A renewal under way ends in its own time, nobody waits for a lock that a leap holds, and one is enough."""
    stack = start_stack(workers=2, environment=clock.environment)
    simulator = stack.simulator
    assert stack.serves()
    simulator.expire()
    gate = Gate().at("rotated")
    simulator.plan(Plan(gate=gate), path="/oauth/token")
    streams = [Background(lambda: stack.turn(way="direct")) for _ in range(12)]
    assert gate.reached.wait(WAIT_SECONDS)
    clock.leap(-10 * DAY)
    streams += [Background(lambda: stack.turn(way="direct")) for _ in range(4)]
    clock.leap(2 * HOUR - 10 * DAY)
    gate.release()
    assert [stream.answer().has_ended for stream in streams] == [True] * 16
    assert [refresh.outcome for refresh in simulator.refreshes] == ["rotated"]


def test_clock_leaps_over_a_limit(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Each day counts the turns that began in it, however the clock came there; none is given twice."""
    user = {"name": "alice", "token": ALICE, "limits": [{"per": "day", "requests": 2}]}
    stack = start_stack(workers=1, environment=clock.environment, user_entries=[user, {"name": "bob", "token": BOB}])
    taken = []
    # At noon, so that no day ends but by a leap.
    noon = DAY // 2 - int(time.time()) % DAY
    for ahead in (0, 3 * DAY, 0, -3 * DAY, 3 * DAY, 0):
        clock.leap(noon + ahead)
        taken.append([stack.turn(ALICE).status for _ in range(3)].count(200))
        assert stack.serves()
    assert taken == [2, 2, 0, 2, 0, 0]


def test_clock_leaps_over_a_session(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Of a dashboard's cookie that is too old, or from the future, nobody is signed in by."""
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
            clock.leap(ahead)
            seen.append(is_signed_in())
    assert seen == [True, True, False, False, True]


def test_clock_leaps_while_records_wait(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """Records that wait for the database are written once, and a leap neither hurries nor forgets them."""
    stack = start_stack(workers=2, environment=clock.environment)
    answers = [stack.turn()]
    with locked_by_another(stack.running.state_path / "ocm.db"):
        for ahead in (10 * DAY, -10 * DAY):
            clock.leap(ahead)
            streams = [Background(lambda: stack.turn(ALICE)) for _ in range(4)]
            answers += [stream.answer() for stream in streams]
    clock.leap(0)
    assert all(answer.has_ended and answer.is_whole for answer in answers)
    assert [row[:2] for row in stack.rows_with(answers)] == [("alice", "completed")] * 9
    assert stack.serves()
    assert len(stack.rows_with(answers)) == 9


def test_clock_leaps_while_upstream_tells_of_its_windows(start_stack: Callable[..., Stack], clock: WallClock) -> None:
    """What upstream said while the clock was ahead does not outweigh what it says now: the owner's reserve is kept."""
    stack = start_stack(workers=1, environment=clock.environment, reserve_5h=20)
    simulator = stack.simulator
    primary = simulator.rate_limits["primary"]
    for ahead, used_percent in ((0, 30), (10 * DAY, 60), (0, 85)):
        clock.leap(ahead)
        simulator.rate_limits = {**simulator.rate_limits, "primary": {**primary, "used_percent": used_percent}}
        assert stack.turn(ALICE).has_ended
    # Past nginx, whose own limit for an address answers 429 too.
    assert eventually(lambda: stack.turn(ALICE, way="direct").status == 429)
