"""Turns whose usage upstream does not report are charged an estimate, over real sockets."""

from __future__ import annotations

import csv
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from ocm_wsgi.simulator import Gate, Plan, Simulator, tokens
from ocm_wsgi.storage import schema as db
from tests.accounting.test_turn_accounting import reading
from tests.conftest import ALICE, RunningService, ServiceFactory
from tests.relay.test_tunnel import TIMEOUT, open_websocket, run_turn, start_turn
from tests.views.dashboard.test_dashboard import Browser

UNREADABLE = (("Content-Encoding", "br"), ("Content-Type", "text/event-stream"))
TEXT = (
    "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."
    + " Nothing else moves." * 12
)
INPUT = "Write a few sentences about a fox and a dog, please. " * 20


@pytest.fixture
def running(service: ServiceFactory, simulator: Simulator) -> RunningService:
    """Start a service with an API key, which allows chat completions."""
    credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
    return service(credential=credential, workers=1)


def rows(running: RunningService, count: int) -> list[Any]:
    """Return the turns, oldest first, once there are this many."""
    deadline = time.monotonic() + 20
    while True:
        with reading(running.state_path) as connection:
            found = connection.execute(sa.select(db.turn).order_by(db.turn.c.started_at, db.turn.c.id)).all()
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) == count
            return list(found)
        time.sleep(0.02)


def request(**members: object) -> dict[str, object]:
    """Return the body of a streamed request."""
    return {"model": "gpt-5.5", "stream": True, "store": False, "input": INPUT, **members}


@contextmanager
def opened(
    running: RunningService, body: dict[str, object], path: str = "/v1/responses", *, token: str = ALICE
) -> Iterator[socket.socket]:
    """Send a request, and yield the connection."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(running.address, timeout=20) as connection:
        connection.sendall(head.encode() + content)
        yield connection


def post(
    running: RunningService, body: dict[str, object], path: str = "/v1/responses", *, token: str = ALICE
) -> requests.Response:
    """Send a request, and read the response to its end."""
    return requests.post(running.url + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """Read a response until it contains something."""
    received = b""
    while wanted not in received:
        data = connection.recv(65536)
        assert data, received[-200:]
        received += data
    return received


def exact(body: dict[str, object], deltas: list[str]) -> dict[str, int]:
    """Return the simulator's own count."""
    return tokens.usage(body, deltas)


def assert_charged(row: Any, usage: dict[str, int]) -> None:
    """Assert that a turn is charged an estimate within the stated bounds: never too little for prose."""
    assert row.estimated
    assert usage["input_tokens"] <= row.input_tokens <= 2 * usage["input_tokens"] + 60
    assert usage["output_tokens"] <= row.output_tokens <= 2 * usage["output_tokens"] + 120
    assert row.cost_micro_usd > 0
    assert (row.cached_tokens, row.reasoning_tokens) == (0, 0)


def words(text: str) -> list[str]:
    """Return a text in the simulator's deltas."""
    *most, last = text.split(" ")
    return [*(word + " " for word in most), last]


def test_chat_without_usage(running: RunningService) -> None:
    """A stream of chat completions without ``include_usage`` is charged an estimate; with it, what upstream says."""
    running.simulator.plan(Plan(text=TEXT, counts=True), times=2)
    body: dict[str, object] = {"model": "gpt-5.5", "stream": True, "messages": [{"role": "user", "content": INPUT}]}
    for options in ({}, {"stream_options": {"include_usage": True}}):
        answer = post(running, {**body, **options}, "/v1/chat/completions")
        assert answer.text.endswith("data: [DONE]\n\n")
    estimated, reported = rows(running, 2)
    usage = exact(body, words(TEXT))
    assert_charged(estimated, usage)
    assert (reported.estimated, reported.input_tokens) == (False, usage["input_tokens"])
    assert reported.output_tokens == usage["output_tokens"]


def test_estimates_are_marked(service: ServiceFactory, simulator: Simulator) -> None:
    """Pages, CSV, JSON, metrics and the log say which usage is an estimate."""
    running = service(workers=1, user_entries=[{"name": "alice", "token": ALICE, "admin": True}])
    simulator.plan(Plan(text=TEXT, usage=None))
    for _ in range(2):
        assert post(running, request()).ok
    headers = {"Authorization": f"Bearer {ALICE}"}
    assert (
        requests.get(f"{running.url}/ocm/v1/usage", headers=headers, timeout=20).json()["total"]["turns_estimated"] == 1
    )
    metrics = requests.get(f"{running.url}/metrics", headers=headers, timeout=20).text
    assert 'ocm_turns_estimated_total{model="gpt-5.5",user="alice"} 1.0' in metrics
    with Browser(running.url) as alice:
        alice.sign_in(ALICE)
        assert alice.get("turns").text.count("estimated</span>") == 1
        reported, estimated = csv.DictReader(io.StringIO(alice.get("turns.csv").text))
    assert (reported["estimated"], estimated["estimated"]) == ("no", "yes")
    assert len(running.log_lines("tokens (estimated)")) == 1


def test_upstream_cuts_the_stream(running: RunningService) -> None:
    """What passed before upstream cut a stream is charged, and nothing if upstream had refused the turn."""
    running.simulator.plan(Plan(text=TEXT, cut_after=24))
    running.simulator.plan(Plan(terminal="failed", text="", usage=None))
    running.simulator.plan(Plan(status=500, json={"error": {"code": "x"}}))
    for _ in range(3):
        with opened(running, request()) as connection:
            while connection.recv(65536):
                pass
    cut, failed, refused = rows(running, 3)
    assert cut.status == "cut"
    assert_charged(cut, exact(request(), words(TEXT)[:20]))
    for row in (failed, refused):
        assert (row.input_tokens, row.output_tokens, row.estimated) == (None, None, False)


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        pytest.param(Plan(text=TEXT, usage=None), "completed", id="null-usage"),
        pytest.param(
            Plan(body=b"\x0b\x02\x80" * 200, fields=UNREADABLE),
            "completed",
            id="unreadable-coding",
        ),
    ],
)
def test_completed_without_usage(running: RunningService, plan: Plan, status: str) -> None:
    """An answer that ends without usage, or in a coding that cannot be read, is charged an estimate."""
    running.simulator.plan(plan)
    answer = requests.post(
        f"{running.url}/v1/responses",
        json=request(),
        headers={"Authorization": f"Bearer {ALICE}"},
        timeout=30,
        stream=True,
    )
    assert answer.raw.read()
    (row,) = rows(running, 1)
    assert row.status == status
    expected = exact(request(), words(TEXT)) if plan.body is None else {"input_tokens": 200, "output_tokens": 300}
    assert_charged(row, expected)


def test_client_leaves_before_the_terminal_event(running: RunningService) -> None:
    """A client that reads all of the text and leaves is charged for it; it cannot have the answer for nothing."""
    deltas = words(TEXT)
    gate = Gate().after(4 + len(deltas))
    running.simulator.plan(Plan(text=TEXT, gate=gate))
    with opened(running, request()) as connection:
        read_until(connection, b'"delta":"moves."')
        assert gate.reached.wait(20)
    (row,) = rows(running, 1)
    gate.release()
    assert row.status == "cut"
    assert_charged(row, exact(request(), deltas))


def test_client_leaves_another_server(service: ServiceFactory) -> None:
    """With a server that iterates over responses, a client that leaves is charged an estimate, too."""
    running = service(workers=1, arguments=("--worker-class", "gthread"))
    gate = Gate().after(24)
    running.simulator.plan(Plan(text=TEXT, gate=gate))
    with opened(running, request()) as connection:
        read_until(connection, b'"delta":"rests "')
        assert gate.reached.wait(20)
    (row,) = rows(running, 1)
    gate.release()
    assert row.status == "cut"
    assert_charged(row, exact(request(), words(TEXT)[:20]))


@pytest.mark.parametrize("model", ["gpt-5.5", "an-invented-name"])
def test_client_leaves_before_the_response(running: RunningService, model: str) -> None:
    """A client that leaves while the model works on an answer that is not streamed is charged for that."""
    gate = Gate().at("status")
    running.simulator.plan(Plan(text=TEXT, gate=gate))
    with opened(running, request(stream=False, model=model)):
        assert gate.reached.wait(20)
    (row,) = rows(running, 1)
    gate.release()
    assert (row.status, row.estimated, row.http_status) == ("cut", True, 0)
    assert row.input_tokens >= exact(request(), [])["input_tokens"]
    # Upstream has not confirmed that there is such a model.
    assert (row.model, row.cost_micro_usd is None) == (("gpt-5.5", False) if model == "gpt-5.5" else ("", True))


def test_nothing_is_charged_for_what_was_not_sent(running: RunningService) -> None:
    """A client that leaves before its request is complete has no turn."""
    with socket.create_connection(running.address, timeout=20) as connection:
        head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    assert post(running, request()).ok
    assert [row.estimated for row in rows(running, 1)] == [False]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_client_leaves_a_websocket(running: RunningService, compression: str | None) -> None:
    """Over a WebSocket, too, a client cannot have an answer for nothing by leaving before its end."""
    deltas = words(TEXT)
    gate = Gate().after(4 + len(deltas))
    running.simulator.plan(Plan(text=TEXT, counts=True))
    running.simulator.plan(Plan(text=TEXT, gate=gate))
    with open_websocket(running, compression=compression) as client:
        first = json.loads(run_turn(client, input=INPUT)[-1])["response"]
        start_turn(client, input="And now?", previous_response_id=first["id"])
        while json.loads(client.recv(TIMEOUT)).get("delta") != deltas[-1]:
            pass
        assert gate.reached.wait(20)
        client.socket.shutdown(socket.SHUT_RDWR)
    reported, estimated = rows(running, 2)
    gate.release()
    assert (reported.status, reported.estimated, estimated.status) == ("completed", False, "cut")
    # The input of the second response is what the first one read and wrote, and the new message.
    continued = reported.input_tokens + reported.output_tokens
    assert continued < estimated.input_tokens < continued + 100
    assert_charged(estimated, {"input_tokens": estimated.input_tokens, "output_tokens": reported.output_tokens})


@pytest.mark.slow
def test_estimates_count_towards_limits(service: ServiceFactory) -> None:
    """A user cannot exceed a limit in tokens by leaving early."""
    limit = {"per": "month", "tokens": 1_000}
    running = service(workers=1, user_entries=[{"name": "alice", "token": ALICE, "limits": [limit]}])
    gate = Gate().after(20)
    running.simulator.plan(Plan(text=TEXT, gate=gate, silence_after=20), times=10)
    answered = 0
    for _ in range(10):
        with opened(running, request()) as connection:
            if b" 429 " in read_until(connection, b"\r\n\r\n"):
                break
            assert gate.reached.wait(20)
            answered += 1
        rows(running, answered)
    gate.release()
    assert 1 <= answered <= 4


def test_continued_conversation(running: RunningService) -> None:
    """The input that upstream adds from an earlier response is charged, too: as much as the largest turn had."""
    usage = {"input_tokens": 50_000, "output_tokens": 1_000}
    running.simulator.plan(Plan(usage=usage))
    running.simulator.plan(Plan(text=TEXT, usage=None))
    first = post(running, request(store=True)).text
    created = json.loads(first.partition("data: ")[2].partition("\n")[0])
    assert post(running, request(previous_response_id=created["response"]["id"])).ok
    reported, estimated = rows(running, 2)
    assert (reported.input_tokens, reported.estimated) == (50_000, False)
    assert 51_200 <= estimated.input_tokens <= 52_000
    assert estimated.estimated


def test_no_unreadable_coding_is_asked_for(running: RunningService) -> None:
    """A client cannot have its answer in a coding that is not read, which would have no usage."""
    fields = {"Authorization": f"Bearer {ALICE}", "Accept-Encoding": "br, gzip", "Accept_Encoding": "br"}
    requests.post(f"{running.url}/v1/responses", json=request(), headers=fields, timeout=30)
    requests.get(f"{running.url}/v1/models", headers=fields, timeout=30)
    turn, models = running.simulator.requests
    assert (turn.field("Accept-Encoding"), models.field("Accept-Encoding")) == ("gzip", "br, gzip")
    assert turn.field("Accept_Encoding") in (None, "identity")
