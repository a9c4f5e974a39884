"""A request cannot use another user's object by naming it in its body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ALICE, BOB, RunningService
from tests.ownership.conftest import CAROL, Call

TURN = {"model": "gpt-5.5", "input": "hi"}

#: Requests that name an object of a collection, with ``ID`` in place of its ID.
NAMING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "previous response": ("responses", "responses", {**TURN, "previous_response_id": "ID"}),
    "previous response of a count": ("responses", "responses/input_tokens", {**TURN, "previous_response_id": "ID"}),
    "previous response of a compaction": ("responses", "responses/compact", {**TURN, "previous_response_id": "ID"}),
    "conversation": ("conversations", "responses", {**TURN, "conversation": {"id": "ID"}}),
    "file": ("files", "responses", {"model": "m", "input": [{"role": "user", "content": [{"file_id": "ID"}]}]}),
    "vector store": ("vector_stores", "responses", {**TURN, "tools": [{"vector_store_ids": ["ID"]}]}),
    "container": ("containers", "responses", {**TURN, "tools": [{"container": "ID"}]}),
    "file of a vector store": ("files", "vector_stores", {"file_ids": ["ID"]}),
    "input of a batch": ("files", "batches", {"input_file_id": "ID", "endpoint": "/v1/responses"}),
    "training": ("files", "fine_tuning/jobs", {"model": "m", "training_file": "ID"}),
    "assistant": ("assistants", "threads/runs", {"assistant_id": "ID"}),
    "file of a chat": (
        "files",
        "chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "ID"}}]}]},
    ),
}
CREATED: dict[str, dict[str, Any]] = {"files": {"files": {"file": b"x"}, "data": {"purpose": "batch"}}}


@pytest.mark.parametrize("case", NAMING)
def test_only_ones_own_objects_can_be_named(call: Call, platform: RunningService, case: str) -> None:
    """The request of another user does not get as far as to upstream."""
    collection, path, body = NAMING[case]
    object_id = call(ALICE, "POST", collection, **CREATED.get(collection, {"json": TURN})).json()["id"]
    sent = len(platform.simulator.requests)
    text = json.dumps(body).replace("ID", object_id)
    refused = call(BOB, "POST", path, data=text, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    assert object_id in refused.json()["error"]["message"]
    assert len(platform.simulator.requests) == sent
    for token in (ALICE, CAROL):
        assert call(token, "POST", path, data=text, headers={"Content-Type": "application/json"}).status_code == 200


def test_a_refusal_is_upstreams(call: Call) -> None:
    """Whether a response is unknown or another user's, the client gets the code on which it sends everything again."""
    response_id = call(ALICE, "POST", "responses", json=TURN).json()["id"]
    for previous in (response_id, "resp_unknown0123456789"):
        ours = call(BOB, "POST", "responses", json={**TURN, "previous_response_id": previous}).json()["error"]
        assert (ours["code"], ours["type"]) == ("previous_response_not_found", "invalid_request_error")
        assert ours["message"] == f"Previous response with id '{previous}' not found."
    theirs = call(CAROL, "POST", "responses", json={**TURN, "previous_response_id": "resp_unknown0123456789"})
    assert theirs.json()["error"]["message"] == "Previous response with id 'resp_unknown0123456789' not found."


def test_items_of_a_response_can_be_referred_to(call: Call) -> None:
    """They are known from the response, streamed or not, and only its creator may refer to them."""
    for stream in (False, True):
        answer = call(ALICE, "POST", "responses", json={**TURN, "stream": stream})
        item_id = f"msg_{answer.text.partition('resp_')[2][:48]}"
        assert item_id in answer.text
        body = {**TURN, "input": [{"type": "item_reference", "id": item_id}]}
        assert call(ALICE, "POST", "responses", json=body).status_code == 200
        assert call(BOB, "POST", "responses", json=body).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"previous_response_id": "x", "previous_response_id": null}',
        '{"previous_response_id": "x"}'.encode("utf-16"),
        b'{"previous_response_id": "x"} {}',
        b"not JSON",
    ],
    ids=["repeated", "utf-16", "text behind", "no JSON"],
)
def test_a_body_that_cannot_be_read_is_refused(call: Call, platform: RunningService, body: bytes) -> None:
    """What it refers to is unknown; admins may refer to everything."""
    fields = {"Content-Type": "application/json"}
    refused = call(ALICE, "POST", "responses", data=body, headers=fields)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "body_unreadable")
    assert platform.simulator.requests == []
    assert call(CAROL, "POST", "vector_stores", data=body, headers=fields).status_code == 200


def test_a_form_names_objects_too(call: Call, platform: RunningService) -> None:
    """A file of another user cannot be copied into one's container with a form."""
    file_id = call(ALICE, "POST", "files", **CREATED["files"]).json()["id"]
    container_id = call(BOB, "POST", "containers", json={}).json()["id"]
    sent = len(platform.simulator.requests)
    refused = call(BOB, "POST", f"containers/{container_id}/files", files={"file_id": (None, file_id)})
    assert refused.status_code == 400
    assert len(platform.simulator.requests) == sent
