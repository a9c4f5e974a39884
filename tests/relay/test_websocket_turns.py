"""Every message that makes a model work is admitted, and every response counts: lanes, steers, interrupts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from websockets.sync.client import ClientConnection

from ocm_wsgi.accounting.turn_accounting import TurnRequest
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage, Purpose
from ocm_wsgi.relay.websocket_turns import MAX_OPEN_TURNS, SharedSlot, WebSocketTurn
from ocm_wsgi.simulator import Plan
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.conftest import ALICE, RunningService, ServiceFactory
from tests.relay.test_live import poll
from tests.relay.test_tunnel import TIMEOUT, open_websocket, run_turn, start_turn

ENDS = ("response.completed", "response.incomplete", "error", "response.steer.failed")


def recorded(running: RunningService) -> list[tuple[str, str, str, int | None]]:
    """Return the model, status, error code and output tokens of each turn in the ledger, in the order they ended."""
    columns = (db.turn.c.model, db.turn.c.status, db.turn.c.error_code, db.turn.c.output_tokens)
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        order = db.turn.c.started_at + db.turn.c.duration_ms / 1000.0
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(order))]


def send(client: ClientConnection, type_: str, **members: Any) -> None:
    """Send a message that starts no turn by itself."""
    client.send(json.dumps({"type": type_, **members}))


def receive(client: ClientConnection, *types: str) -> dict[str, Any]:
    """Return the next message of one of these types."""
    while True:
        message: dict[str, Any] = json.loads(client.recv(TIMEOUT))
        if message["type"] in types:
            return message


def test_lanes(service: ServiceFactory) -> None:
    """Responses of two lanes end out of order, each with its own row, model and usage; so do an error and a refusal."""
    running = service(workers=1)
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate, usage={"input_tokens": 1, "output_tokens": 11}))
    running.simulator.plan(Plan(usage={"input_tokens": 1, "output_tokens": 22}))
    running.simulator.plan(Plan(status=400, error=("context_length_exceeded", "Too long.")))
    with open_websocket(running) as client:
        start_turn(client, model="gpt-5.5", stream_id="slow")
        assert gate.reached.wait(TIMEOUT)
        start_turn(client, model="gpt-5.4", stream_id="fast")
        assert receive(client, *ENDS)["stream_id"] == "fast"
        start_turn(client, model="gpt-6-sol", stream_id="bad")
        assert receive(client, *ENDS)["stream_id"] == "bad"
        send(client, "response.unknown", stream_id="odd")
        assert receive(client, *ENDS)["status"] == 400
        gate.release()
        assert receive(client, *ENDS)["stream_id"] == "slow"
    assert recorded(running) == [
        ("gpt-5.4", "completed", "", 22),
        ("gpt-6-sol", "error", "context_length_exceeded", None),
        ("gpt-5.5", "completed", "", 11),
    ]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_steer(service: ServiceFactory, compression: str | None) -> None:
    """A steered response and its successor are two turns in one slot, each with its usage."""
    running = service(workers=1, user_entries=[{"name": "alice", "token": ALICE, "max_concurrent": 1}])
    first, second = running.simulator.gate().after(2), running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=first, usage={"input_tokens": 1, "output_tokens": 11}))
    running.simulator.plan(Plan(gate=second, usage={"input_tokens": 1, "output_tokens": 22}))
    with open_websocket(running, compression=compression) as client, open_websocket(running) as other:
        start_turn(client, model="gpt-6-astra")
        response_id = receive(client, "response.created")["response"]["id"]
        send(client, "response.steer", previous_response_id=response_id, input="Be brief.")
        assert receive(client, "response.steer.accepted")["steer"]["previous_response_id"] == response_id
        assert receive(client, *ENDS)["response"]["incomplete_details"] == {"reason": "steered"}
        assert second.reached.wait(TIMEOUT)
        assert json.loads(run_turn(other)[-1])["error"]["code"] == "too_many_concurrent"
        second.release()
        assert receive(client, *ENDS)["response"]["previous_response_id"] == response_id
        assert json.loads(run_turn(other)[-1])["type"] == "response.completed"
    assert recorded(running)[:2] == [
        ("gpt-6-astra", "incomplete", "steered", 11),
        ("gpt-6-astra", "completed", "", 22),
    ]


def test_steer_is_admitted(service: ServiceFactory) -> None:
    """A steer that upstream refuses is no turn; a user who was removed, or whose models it might leave, gets none."""
    entry = {"name": "alice", "token": ALICE, "models": ["gpt-5.5"], "max_concurrent": 1}
    running = service(workers=1, user_entries=[entry])
    accounts = Accounts([], Database(f"sqlite:///{running.state_path / 'ocm.db'}"))
    with open_websocket(running) as client:
        send(client, "response.steer", previous_response_id="resp_unknown", input="x")
        assert receive(client, *ENDS)["error"]["code"] == "model_not_allowed"
        start_turn(client)
        response_id = receive(client, "response.completed")["response"]["id"]
        send(client, "response.steer", previous_response_id=response_id, input="x")
        assert receive(client, *ENDS)["error"]["code"] == "response_not_found"
        assert json.loads(run_turn(client)[-1])["type"] == "response.completed"
    with open_websocket(running, accounts.add(User("carol"), actor="cli")) as client:
        gate = running.simulator.gate().after(2)
        running.simulator.plan(Plan(gate=gate))
        start_turn(client)
        response_id = receive(client, "response.created")["response"]["id"]
        accounts.remove("carol", actor="cli")
        send(client, "response.steer", previous_response_id=response_id, input="x")
        assert receive(client, *ENDS)["error"]["code"] == "invalid_bearer_token"
        gate.release()
        assert receive(client, *ENDS)["type"] == "response.completed"
    assert [row[1] for row in recorded(running)] == ["completed"] * 3


def test_many_lanes(service: ServiceFactory) -> None:
    """The number of turns in progress on one socket is limited, and each of them has a row when the client leaves."""
    running = service(workers=1)
    running.simulator.default_plan = Plan(silence_after=1)
    with open_websocket(running) as client:
        for lane in range(MAX_OPEN_TURNS + 1):
            start_turn(client, stream_id=str(lane))
        answers = [receive(client, "response.created", *ENDS) for _ in range(MAX_OPEN_TURNS + 1)]
        (error,) = (answer for answer in answers if answer["type"] == "error")
        assert (error["error"]["code"], error["stream_id"]) == ("too_many_concurrent", str(MAX_OPEN_TURNS))
    poll(lambda: [row[1] for row in recorded(running)] == ["cut"] * MAX_OPEN_TURNS)


def test_inject(service: ServiceFactory) -> None:
    """Input for a response in progress is part of its turn; a user who was removed meanwhile may not send it."""
    running = service(workers=1)
    accounts = Accounts([], Database(f"sqlite:///{running.state_path / 'ocm.db'}"))
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with open_websocket(running, accounts.add(User("carol"), actor="cli")) as client:
        start_turn(client)
        response_id = receive(client, "response.created")["response"]["id"]
        send(client, "response.inject", response_id=response_id, input=[])
        assert receive(client, "response.inject.created", *ENDS)["response_id"] == response_id
        accounts.remove("carol", actor="cli")
        send(client, "response.inject", response_id=response_id, input=[])
        assert receive(client, "response.inject.created", *ENDS)["error"]["code"] == "invalid_bearer_token"
        gate.release()
        assert receive(client, *ENDS)["type"] == "response.completed"
    assert [row[1] for row in recorded(running)] == ["completed"]


def test_duration_of_a_steer() -> None:
    """A turn that follows another one begins with its response, and any other turn with its request."""
    request = TurnRequest(user="alice", endpoint="responses", facts=RequestFacts(), started_at=0.0, started=50.0)
    beginnings: dict[Purpose, float] = {"steer": 100.0, "turn": 50.0}
    for purpose, started in beginnings.items():
        message = ClientMessage(purpose, RequestFacts())
        turn = WebSocketTurn(request, SharedSlot(nothing), nothing, week_start=None, message=message)
        turn.begin(100.0)
        turn.begin(200.0)
        assert (turn.request.started, turn.response_started) == (started, 100.0)
        assert (turn.request.started_at > 0) is (purpose == "steer")


def nothing() -> None:
    """Do nothing."""


def test_interrupt(service: ServiceFactory) -> None:
    """An interrupted response is recorded as incomplete with its usage, and the next request continues it."""
    running = service(workers=1)
    running.simulator.plan(Plan(silence_after=3, usage={"input_tokens": 1, "output_tokens": 11}))
    with open_websocket(running) as client:
        start_turn(client)
        response_id = receive(client, "response.created")["response"]["id"]
        send(client, "response.interrupt", response_id=response_id, mode="discard_partial_items")
        end = receive(client, *ENDS)["response"]
        assert (end["incomplete_details"], end["end_turn"]) == ({"reason": "interrupted"}, False)
        assert json.loads(run_turn(client, previous_response_id=response_id)[-1])["type"] == "response.completed"
    assert recorded(running)[0] == ("gpt-5.5", "incomplete", "interrupted", 11)


UNKNOWN_MESSAGES = (
    '{"type":"response.later","model":"gpt-5.5"}',
    '{"type":"response.create","model":"gpt-5.5","type":"response.interrupt"}',
    '{"type":"response.inject","response_id":"resp_of_another","input":[]}',
    "response.create",
    b"\x00\x01",
)


def test_unknown_messages_are_refused(service: ServiceFactory) -> None:
    """A message of an unknown kind is answered with an error, never sent upstream, and the socket stays usable."""
    running = service(workers=1)
    with open_websocket(running) as client:
        for message in UNKNOWN_MESSAGES:
            client.send(message)
            error = receive(client, *ENDS)
            assert (error["status"], error["error"]["code"]) == (400, "invalid_message")
        assert running.simulator.creates == []
        assert json.loads(run_turn(client)[-1])["type"] == "response.completed"


def test_shared_slot() -> None:
    """A slot is released once, when the last turn in it has ended, and cannot be shared after that."""
    released: list[str] = []
    slot = SharedSlot(lambda: released.append("released"))
    assert slot.share()
    slot.release()
    assert released == []
    slot.release()
    assert released == ["released"]
    assert not slot.share()
