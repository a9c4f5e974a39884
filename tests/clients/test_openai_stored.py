"""What OpenAI's own Python library stores: used by its owner as without a service in between, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from ocm_wsgi.simulator import Plan, Simulator
from tests.clients.test_openai_sdk import MODEL, TEXT, connect
from tests.conftest import ALICE, BOB, RunningService
from tests.ownership.test_background import USAGE, turns


@pytest.fixture
def running(service: Any, simulator: Simulator) -> RunningService:
    """Run the service for an owner with an API key, and with two users."""
    started: RunningService = service(credential={"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()})
    return started


@pytest.fixture
def alice(running: RunningService) -> Iterator[openai.OpenAI]:
    """Return the client of a user."""
    with connect(running, ALICE) as client:
        yield client


@pytest.fixture
def bob(running: RunningService) -> Iterator[openai.OpenAI]:
    """Return the client of another user."""
    with connect(running, BOB) as client:
        yield client


def test_background_responses(running: RunningService, alice: openai.OpenAI, bob: openai.OpenAI) -> None:
    """They are polled, streamed from where they were left, and cancelled; each is charged once, to who asked for it."""
    running.simulator.background_polls = 1
    running.simulator.default_plan = Plan(text=TEXT, usage=USAGE)
    polled = alice.responses.create(model=MODEL, input="write", background=True)
    assert polled.status == "queued"
    assert [alice.responses.retrieve(polled.id).status for _ in range(2)] == ["in_progress", "completed"]
    cancelled = alice.responses.create(model=MODEL, input="write", background=True)
    assert alice.responses.cancel(cancelled.id).status == "cancelled"
    with alice.responses.create(model=MODEL, input="write", background=True, stream=True) as stream:
        first = next(iter(stream))
        assert first.type == "response.created"
    response_id = first.response.id
    with alice.responses.retrieve(response_id, stream=True, starting_after=first.sequence_number) as rest:
        events = list(rest)
    assert events[0].sequence_number == first.sequence_number + 1
    assert events[-1].type == "response.completed"
    rows = turns(running)
    assert [(row["user"], row["output_tokens"], row["estimated"]) for row in rows] == [
        ("alice", USAGE["output_tokens"], False)
    ] * 3
    assert sorted(row["status"] for row in rows) == ["completed", "completed", "incomplete"]
    with pytest.raises(openai.NotFoundError):
        bob.responses.retrieve(polled.id)


def test_a_conversation_continues(running: RunningService, alice: openai.OpenAI, bob: openai.OpenAI) -> None:
    """By the previous response and by the items of its output; another user gets OpenAI's own error."""
    first = alice.responses.create(model=MODEL, input="hi")
    items: list[Any] = [item.to_dict() for item in first.output]
    assert alice.responses.create(model=MODEL, input="go on", previous_response_id=first.id).status == "completed"
    assert alice.responses.create(model=MODEL, input=[*items, {"role": "user", "content": "go on"}]).id
    with pytest.raises(openai.BadRequestError) as refused:
        bob.responses.create(model=MODEL, input="go on", previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"


def test_files_and_what_is_made_of_them(alice: openai.OpenAI, bob: openai.OpenAI) -> None:
    """Files, vector stores and batches; another user reaches none of them, in a path or in a body."""
    file = alice.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    store = alice.vector_stores.create(file_ids=[file.id])
    batch = alice.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    results = alice.batches.retrieve(batch.id).output_file_id
    assert results is not None
    assert alice.files.content(results).read().startswith(b"content of ")
    attempts: list[Callable[[], object]] = [
        lambda: bob.files.retrieve(file.id),
        lambda: bob.files.content(results),
        lambda: bob.files.delete(file.id),
        lambda: bob.vector_stores.retrieve(store.id),
        lambda: bob.batches.cancel(batch.id),
    ]
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError):
            attempt()
    with pytest.raises(openai.BadRequestError):
        bob.vector_stores.create(file_ids=[file.id])
    assert alice.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        alice.files.retrieve(file.id)
