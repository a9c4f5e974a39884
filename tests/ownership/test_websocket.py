"""A turn on a WebSocket cannot continue another user's response, nor use their objects, by naming them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from ocm_wsgi.simulator import Plan
from tests.conftest import ALICE, BOB, RunningService, ServiceFactory
from tests.ownership.conftest import CAROL, Call
from tests.ownership.test_access import owner
from tests.relay.test_tunnel import TIMEOUT, open_websocket, run_turn, start_turn


def completed(client: ClientConnection, **members: Any) -> str:
    """Run a turn and return the ID of its response."""
    event = json.loads(run_turn(client, **members)[-1])
    assert event["type"] == "response.completed", event
    return str(event["response"]["id"])


def refused(client: ClientConnection, **members: Any) -> tuple[int, str]:
    """Run a turn that is refused, and return the status and the code."""
    event = json.loads(run_turn(client, **members)[-1])
    assert event["type"] == "error", event
    return event["status"], event["error"]["code"]


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_stored_response_is_continued_by_its_creator_only(
    platform: RunningService, call: Call, compression: str | None
) -> None:
    """On any WebSocket and over HTTP, by its creator and admins; to others it is unknown."""
    with open_websocket(platform, ALICE, compression) as client:
        response_id = completed(client, store=True)
    assert owner(platform, response_id) == "alice"
    for token in (ALICE, CAROL):
        assert call(token, "GET", f"responses/{response_id}").status_code == 200
        with open_websocket(platform, token, compression) as client:
            completed(client, previous_response_id=response_id, store=False)
    creates = len(platform.simulator.creates)
    with open_websocket(platform, BOB) as client:
        for previous in (response_id, "resp_unknown0123456789"):
            assert refused(client, previous_response_id=previous) == (400, "previous_response_not_found")
    assert call(BOB, "GET", f"responses/{response_id}").status_code == 404
    assert len(platform.simulator.creates) == creates


@pytest.mark.parametrize("member", ["file_id", "vector_store_ids", "conversation"])
def test_other_objects_are_their_creators_too(platform: RunningService, call: Call, member: str) -> None:
    """What a message names is checked as in the body of a request."""
    collection = {"file_id": "files", "vector_store_ids": "vector_stores", "conversation": "conversations"}[member]
    object_id = call(ALICE, "POST", collection, json={}).json()["id"]
    named: dict[str, Any] = {
        "file_id": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": object_id}]}]},
        "vector_store_ids": {"tools": [{"type": "file_search", "vector_store_ids": [object_id]}]},
        "conversation": {"conversation": object_id},
    }[member]
    with open_websocket(platform, BOB) as client:
        assert refused(client, **named)[0] == 400
    with open_websocket(platform, ALICE) as client:
        completed(client, **named)


@pytest.mark.parametrize("mode", ["platform", "chatgpt"])
def test_a_response_that_is_not_stored_is_its_websockets(
    platform: RunningService, service: ServiceFactory, mode: str
) -> None:
    """Its ID passes on that WebSocket, also that of a prewarm, and needs no row; on any other it is unknown."""
    running = platform if mode == "platform" else service(workers=1)
    running.simulator.clear()
    with open_websocket(running) as client, open_websocket(running) as other:
        prewarm_id = completed(client, generate=False, store=False)
        response_id = completed(client, previous_response_id=prewarm_id, store=False)
        assert completed(client, previous_response_id=response_id, store=False)
        sent = len(running.simulator.creates)
        assert refused(other, previous_response_id=response_id)[1] == "previous_response_not_found"
        assert len(running.simulator.creates) == sent
    assert owner(running, response_id) is None


def test_a_response_in_progress_can_be_named(platform: RunningService) -> None:
    """A message that steers or interrupts names a response that has not ended; that of another WebSocket is refused."""
    platform.simulator.plan(Plan(silence_after=3))
    with open_websocket(platform) as client, open_websocket(platform, BOB) as other:
        start_turn(client, store=False)
        created = json.loads(client.recv(TIMEOUT))
        response_id = created["response"]["id"]
        other.send(json.dumps({"type": "response.interrupt", "response_id": response_id}))
        assert json.loads(other.recv(TIMEOUT))["error"]["code"] == "invalid_message"
        other.send(json.dumps({"type": "response.steer", "previous_response_id": response_id, "input": "x"}))
        assert json.loads(other.recv(TIMEOUT))["error"]["code"] == "previous_response_not_found"
        client.send(json.dumps({"type": "response.interrupt", "response_id": response_id}))
        while (event := json.loads(client.recv(TIMEOUT)))["type"] != "response.incomplete":
            assert event["type"] != "error"
        completed(client, previous_response_id=response_id, store=False)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_stored_response_has_an_owner_when_it_is_created(platform: RunningService, compression: str | None) -> None:
    """A client that has seen its ID may leave, and is its owner all the same."""
    platform.simulator.plan(Plan(silence_after=1))
    with open_websocket(platform, ALICE, compression) as client:
        start_turn(client, store=True)
        response_id = json.loads(client.recv(TIMEOUT))["response"]["id"]
        assert owner(platform, response_id) == "alice"
