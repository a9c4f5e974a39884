"""A pool of accounts over real sockets: affinity, failing over, and what users see."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.simulator import Gate, Plan, Simulator
from ocm_wsgi.simulator.shapes import usage_limit_reached
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.api_requests import TURN, post
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.pools.test_accounts import get, windows

ROOT = "sk-ocm-root-0123456789abcdef"
USERS = [
    {"name": "alice", "token": ALICE, "credential": "pool"},
    {"name": "bob", "token": BOB, "credential": "pool"},
    {"name": "root", "token": ROOT, "credential": "pool", "admin": True},
]


def start(service: ServiceFactory, tags: str = "abc", *, workers: int = 1, **pool: Any) -> RunningService:
    """Start a service whose users are all served by a pool of accounts."""
    accounts: dict[str, dict[str, Any]] = {tag: {} for tag in tags}
    return service(
        credentials={**accounts, "pool": {"type": "balancer", "credentials": list(tags), **pool}},
        user_entries=USERS,
        workers=workers,
    )


def turn(running: RunningService, session: str | None = None, token: str = ALICE, **members: Any) -> requests.Response:
    """Take a turn of a conversation."""
    headers = {} if session is None else {"session-id": session}
    return post(running, token=token, headers=headers, json={**TURN, **members})


def served(simulator: Simulator) -> str:
    """Return which accounts have served the turns so far, in their order."""
    return "".join(turn.account.removeprefix("acct-") for turn in simulator.turns)


def rows(running: RunningService) -> list[tuple[str, int]]:
    """Return the account and status of each recorded turn, the oldest first."""
    database = Database(f"sqlite:///{running.settled_database()}")
    with database.read() as connection:
        found = connection.execute(sa.select(db.turn.c.credential, db.turn.c.http_status).order_by(db.turn.c.id)).all()
    database.close()
    return [(row.credential, row.http_status) for row in found]


def events(running: RunningService) -> list[tuple[str, str, str]]:
    """Return what the audit trail says of blocked accounts."""
    database = Database(f"sqlite:///{running.settled_database()}")
    with database.read() as connection:
        found = connection.execute(sa.select(db.event).where(db.event.c.kind == "credential.blocked")).all()
    database.close()
    return [(row.subject, row.detail["reason"], row.detail["pool"]) for row in found]


def test_a_conversation_stays_with_its_account(service: ServiceFactory, simulator: Simulator) -> None:
    """In all workers, whatever its client calls the field, and apart from the conversations of other users."""
    running = start(service, strategy="round-robin", workers=2)
    for _ in range(4):
        assert turn(running, "s1").status_code == 200
    assert served(simulator) == "aaaa"
    assert turn(running, "s2").status_code == 200
    assert turn(running, "s1", token=BOB).status_code == 200
    assert served(simulator) == "aaaabc"
    for field in ("session_id", "thread-id", "conversation_id"):
        for name in ("s1", f"other-{field}"):
            assert post(running, headers={field: name}).status_code == 200
    # s1 is the same conversation by any name of the field.
    assert served(simulator) == "aaaabc" + "aa" + "ab" + "ac"
    assert turn(running, prompt_cache_key="s2").status_code == 200
    assert served(simulator)[-1] == "b"


@pytest.mark.parametrize(
    ("strategy", "expected"), [("round-robin", "abcabc"), ("fallback", "aaaaaa"), ("least_used", "aaaaaa")]
)
def test_strategies(service: ServiceFactory, simulator: Simulator, strategy: str, expected: str) -> None:
    """Requests without a conversation are served one by one."""
    running = start(service, strategy=strategy)
    for account in ("acct-a", "acct-b", "acct-c"):
        simulator.account_rate_limits[account] = windows(0, 0)
    for _ in expected:
        assert turn(running).status_code == 200
    assert served(simulator) == expected


def test_least_used_follows_what_upstream_reports(service: ServiceFactory, simulator: Simulator) -> None:
    """In this process at once; a plan with more left is used more."""
    running = start(service, "ab")
    simulator.account_rate_limits["acct-a"] = windows(10, 50)
    simulator.account_rate_limits["acct-b"] = windows(10, 20)
    for _ in range(4):
        assert turn(running).status_code == 200
    assert served(simulator) == "abbb"
    simulator.account_rate_limits["acct-b"] = windows(10, 60)
    for _ in range(3):
        assert turn(running).status_code == 200
    assert served(simulator) == "abbbbaa"


@pytest.mark.parametrize(("refusing", "served_by"), [("a", "b"), ("ab", "c")])
def test_an_account_that_is_used_up_is_replaced(
    service: ServiceFactory, simulator: Simulator, refusing: str, served_by: str
) -> None:
    """The same request is sent to the next one, the conversation stays there, and nobody else asks the first again."""
    running = start(service, strategy="fallback")
    resets_at = int(time.time()) + 1000
    for tag in refusing:
        simulator.account_plans[f"acct-{tag}"] = usage_limit_reached(resets_at=resets_at)
    response = turn(running, "s1", input="the very same text")
    assert response.status_code == 200
    assert "response.completed" in response.text
    asked = [seen for seen in simulator.requests if seen.method == "POST"]
    assert [seen.field("ChatGPT-Account-Id") for seen in asked] == [f"acct-{tag}" for tag in refusing + served_by]
    assert {seen.body for seen in asked} == {asked[0].body}
    assert turn(running, "s2", token=BOB).status_code == 200
    assert len([seen for seen in simulator.requests if seen.method == "POST"]) == len(refusing) + 2
    assert rows(running) == [(served_by, 200)] * 2
    assert events(running) == [(tag, "usage_limit", "pool") for tag in refusing]


def test_a_conversation_moves_with_its_account_used_up(service: ServiceFactory, simulator: Simulator) -> None:
    """In its middle, and stays with the other account."""
    running = start(service, "ab", strategy="round-robin")
    assert turn(running, "s1").status_code == 200
    simulator.plan(usage_limit_reached(resets_at=int(time.time()) + 1000), account="acct-a")
    for _ in range(3):
        assert turn(running, "s1").status_code == 200
    assert served(simulator) == "abbb"


def test_when_all_are_used_up_the_earliest_reset_is_named(service: ServiceFactory, simulator: Simulator) -> None:
    """As Codex shows it, with the windows of all; the client does not learn how many there are, nor which."""
    running = start(service)
    now = int(time.time())
    for tag, seconds in (("a", 3000), ("b", 1000), ("c", 2000)):
        simulator.account_plans[f"acct-{tag}"] = usage_limit_reached(resets_at=now + seconds)
    response = turn(running, "s1")
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["type"], error["code"], error["resets_at"]) == (
        "usage_limit_reached",
        "usage_limit_reached",
        now + 1000,
    )
    assert 900 < error["resets_in_seconds"] <= 1000
    assert response.headers["x-codex-primary-used-percent"] == "100.00"
    assert response.headers["x-codex-primary-window-minutes"] == "300"
    assert "acct" not in response.text + str(response.headers)
    asked = len(simulator.requests)
    assert turn(running, "s2", token=BOB).status_code == 429
    assert len(simulator.requests) == asked
    # Of what was asked of upstream there is a row.
    assert [status for _, status in rows(running)] == [429]


FAULTS: dict[str, Plan] = {
    "5xx": Plan(status=503),
    "rate-limit": Plan(status=429, error=("rate_limit_exceeded", "Slow down."), fields=(("Retry-After", "7"),)),
    "payment": Plan(status=402, error=("payment_required", "Pay.")),
    "deactivated": Plan(status=403, error=("account_deactivated", "Gone.")),
    "failed-stream": Plan(
        terminal="failed", error=("usage_limit_reached", "Used up."), events=0, output=(), usage=None
    ),
    "overloaded-stream": Plan(
        terminal="failed", error=("server_is_overloaded", "Later."), events=0, output=(), usage=None
    ),
    "unauthorized": Plan(status=401, error=("some_permission", "No.")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_an_account_are_hidden(service: ServiceFactory, simulator: Simulator, fault: str) -> None:
    """Before anything was sent to the client, another account gets the same request."""
    running = start(service, "ab", strategy="fallback")
    simulator.account_plans["acct-a"] = FAULTS[fault]
    response = turn(running, "s1")
    assert (response.status_code, served(simulator)[-1]) == (200, "b")
    assert "response.completed" in response.text
    assert "response.failed" not in response.text
    assert rows(running) == [("b", 200)]


@pytest.mark.parametrize("status", [400, 403, 404, 413])
def test_what_is_the_requests_fault_passes(service: ServiceFactory, simulator: Simulator, status: int) -> None:
    """Unchanged, and without asking another account."""
    running = start(service, "ab", strategy="fallback")
    simulator.account_plans["acct-a"] = Plan(status=status, error=("context_length_exceeded", "Too long."))
    response = turn(running, "s1")
    assert (response.status_code, response.json()["error"]["code"]) == (status, "context_length_exceeded")
    assert [seen.field("ChatGPT-Account-Id") for seen in simulator.requests] == ["acct-a"]


def test_the_last_5xx_passes(service: ServiceFactory, simulator: Simulator) -> None:
    """If every account answers so, once each."""
    running = start(service)
    simulator.default_plan = Plan(status=502, error=("bad_gateway", "Nobody there."))
    response = turn(running, "s1")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "bad_gateway")
    asked = [seen.field("ChatGPT-Account-Id") for seen in simulator.requests]
    assert sorted(map(str, asked)) == ["acct-a", "acct-b", "acct-c"]


def test_a_signed_out_account_is_passed_over(service: ServiceFactory, simulator: Simulator) -> None:
    """Until it is signed in again; without any, the error says what the owner must do, and not that of a limit."""
    running = start(service, "ab", strategy="fallback")
    content = (running.folder / "a.json").read_text()
    (running.folder / "a.json").unlink()
    assert turn(running, "s1").status_code == 200
    assert served(simulator) == "b"
    (running.folder / "b.json").unlink()
    response = turn(running, "s1")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "credential_unavailable")
    assert content


def test_a_failure_of_the_network_is_over_when_it_is_over(service: ServiceFactory) -> None:
    """Not later: the last account of a pool that cannot be reached does not rest."""
    # A proxy that refuses connections until it listens, on a port that nobody else can take meanwhile.
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        detour = {"detour": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        running = service(
            credentials={"a": detour, "b": detour, "pool": {"type": "balancer", "credentials": ["a", "b"]}},
            user_entries=USERS,
            workers=1,
        )
        for _ in range(2):
            response = turn(running, "s1")
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        proxy.listen()

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert turn(running, "s1").status_code == 404
        thread.join(30)


def test_nothing_that_was_generated_is_repeated(service: ServiceFactory, simulator: Simulator) -> None:
    """A stream that breaks off, or a request that upstream has got without answering, is not sent again."""
    running = start(service, "ab", strategy="fallback")
    simulator.account_plans["acct-a"] = Plan(cut_after=2)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        turn(running, "s1")
    simulator.account_plans["acct-a"] = Plan(cut_at="status")
    assert turn(running, "s1").status_code == 502
    assert {seen.field("ChatGPT-Account-Id") for seen in simulator.requests} == {"acct-a"}


def test_a_slow_stream_is_not_held_back(service: ServiceFactory, simulator: Simulator) -> None:
    """While upstream prepares a response, its first events reach the client; a failure after them passes."""
    running = start(service, "ab", strategy="fallback")
    gate = Gate().after(2)
    failure = Plan(terminal="failed", error=("usage_limit_reached", "Used up."), output=(), usage=None, gate=gate)
    simulator.plan(failure, account="acct-a")
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {ALICE}"}
        with session.post(
            running.url + "/v1/responses", headers=headers, json=TURN, timeout=30, stream=True
        ) as response:
            assert response.status_code == 200
            pieces = response.iter_content(None)
            assert b"response.created" in next(pieces)
            gate.release()
            assert b"response.failed" in b"".join(pieces)
    assert rows(running) == [("a", 200)]


def test_users_see_one_subscription(service: ServiceFactory, simulator: Simulator) -> None:
    """The figures of all accounts as one, with the lengths of the windows, and no field of a single account."""
    running = start(service, "ab", strategy="round-robin")
    simulator.account_rate_limits["acct-a"] = windows(10, 40, plan="pro")
    simulator.account_rate_limits["acct-b"] = windows(32, 18, plan="plus")
    for _ in range(2):
        response = turn(running)
    fields = {name.lower(): value for name, value in response.headers.items() if name.lower().startswith("x-codex")}
    # Caps of 99: 100 - (89 * 10 + 67) / 11 and 100 - (59 * 10 + 81) / 11.
    assert (fields["x-codex-primary-used-percent"], fields["x-codex-secondary-used-percent"]) == ("13.00", "39.00")
    assert (fields["x-codex-primary-window-minutes"], fields["x-codex-secondary-window-minutes"]) == ("300", "10080")
    assert int(fields["x-codex-primary-reset-at"]) > time.time()
    assert set(fields) == {
        f"x-codex-{place}-{name}"
        for place in ("primary", "secondary")
        for name in ("used-percent", "window-minutes", "reset-at")
    }
    usage = get(running, "/api/codex/usage", ROOT).json()
    assert usage["rate_limit"]["primary_window"]["used_percent"] == 13
    assert usage["rate_limit"]["secondary_window"]["used_percent"] == 39


def test_a_cap_keeps_an_account_in_reserve(service: ServiceFactory, simulator: Simulator) -> None:
    """It is not used beyond its cap, and what is beyond it counts as used."""
    running = service(
        credentials={
            "a": {"reserve_weekly": 30},
            "b": {},
            "pool": {"type": "balancer", "credentials": ["a", "b"], "strategy": "fallback"},
        },
        user_entries=USERS,
        workers=1,
    )
    simulator.account_rate_limits["acct-a"] = windows(10, 70)
    simulator.account_rate_limits["acct-b"] = windows(10, 20)
    for _ in range(3):
        assert turn(running, "s1").status_code == 200
    assert served(simulator) == "abb"


def test_a_turn_state_goes_to_its_account_only(service: ServiceFactory, simulator: Simulator) -> None:
    """When the conversation moves, the token of the account that has given it is left out."""
    running = start(service, "ab", strategy="fallback")
    simulator.account_plans["acct-a"] = Plan(fields=(("x-codex-turn-state", "state-of-a"),))
    assert turn(running, "s1").headers["x-codex-turn-state"] == "state-of-a"
    fields = {"session-id": "s1", "x-codex-turn-state": "state-of-a"}
    assert post(running, headers=fields).status_code == 200
    assert simulator.requests[-1].field("x-codex-turn-state") == "state-of-a"
    simulator.account_plans["acct-a"] = usage_limit_reached(resets_at=int(time.time()) + 1000)
    assert post(running, headers=fields).status_code == 200
    assert [seen.field("x-codex-turn-state") for seen in simulator.requests[-2:]] == ["state-of-a", None]


def test_what_an_account_stores_is_asked_of_it_alone(service: ServiceFactory, simulator: Simulator) -> None:
    """Also when it refuses."""
    running = start(service, "ab", strategy="fallback")
    database = Database(f"sqlite:///{running.state_path}/ocm.db")
    row = {"id": "resp_of_b", "user": "alice", "kind": "response", "credential": "b", "created_at": time.time()}
    with database.write() as connection:
        connection.execute(db.stored_object.insert(), row)
        connection.execute(db.stored_object.insert(), {**row, "id": "resp_of_x", "credential": "gone"})
    database.close()
    simulator.account_plans["acct-b"] = Plan(status=429, error=("rate_limit_exceeded", "Slow down."))
    response = turn(running, "s1", previous_response_id="resp_of_b")
    assert response.status_code == 429
    assert [seen.field("ChatGPT-Account-Id") for seen in simulator.requests] == ["acct-b"]
    response = turn(running, "s1", previous_response_id="resp_of_x")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert len(simulator.requests) == 1


def test_conversations_move_to_an_account_that_is_used_much_less(service: ServiceFactory, simulator: Simulator) -> None:
    """Beyond the threshold."""
    running = start(service, "ab", rebalance_threshold=20)
    simulator.account_rate_limits["acct-a"] = windows(0, 10)
    simulator.account_rate_limits["acct-b"] = windows(0, 5)
    assert [turn(running, "s1").status_code, turn(running, "s2").status_code] == [200, 200]
    assert [turn(running, "s1").status_code, turn(running, "s2").status_code] == [200, 200]
    assert served(simulator) == "abab"
    simulator.account_rate_limits["acct-a"] = windows(0, 40)
    assert [turn(running, "s1").status_code, turn(running, "s1").status_code] == [200, 200]
    assert served(simulator) == "abab" + "ab"


def test_requests_without_users_use_a_first_pool(service: ServiceFactory, simulator: Simulator) -> None:
    """As in sing-box, the first entry serves."""
    running = service(
        credentials={"pool": {"type": "balancer", "credentials": ["b", "a"], "strategy": "fallback"}, "a": {}, "b": {}},
        users={},
    )
    assert post(running).status_code == 200
    assert served(simulator) == "b"


def test_an_api_key_in_a_pool_is_passed_over(service: ServiceFactory, simulator: Simulator) -> None:
    """Its endpoints are others."""
    running = start(service, "ab", strategy="fallback")
    # With the key at its start, the service would refuse to start.
    assert turn(running, "s1").status_code == 200
    (running.folder / "a.json").write_text(json.dumps({"OPENAI_API_KEY": simulator.api_key()}))
    assert turn(running, "s1").status_code == 200
    assert served(simulator) == "ab"


def test_a_paused_account_is_not_used(service: ServiceFactory, simulator: Simulator) -> None:
    """In any worker, from about the next second on, until it is resumed."""
    running = start(service, "ab", strategy="fallback", workers=2)
    database = Database(f"sqlite:///{running.state_path}/ocm.db")
    assert turn(running, "s1").status_code == 200
    Blocks(database).pause("a", actor="cli")
    until_served_by(running, "b")
    Blocks(database).resume("a", actor="cli")
    until_served_by(running, "a")
    database.close()


def until_served_by(running: RunningService, tag: str) -> None:
    """Take turns until several in a row were served by an account: each worker has noticed a change by then."""
    deadline = time.monotonic() + 60
    while served(running.simulator)[-8:] != tag * 8:
        assert time.monotonic() < deadline
        assert turn(running).status_code == 200
