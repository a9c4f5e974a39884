"""OpenAI's own Python library over WebSockets, and in the background: right answers, and right rows in the ledger."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from websockets.exceptions import InvalidStatus

from ocm_wsgi.simulator import Plan, Simulator
from tests.clients.test_openai_sdk import BEARER_TOKEN, connect
from tests.conftest import RunningService, ServiceFactory
from tests.relay.test_websocket_turns import recorded

# The library uses a form of connect() that its dependency will drop.
pytestmark = pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")


def usage(output_tokens: int) -> dict[str, int]:
    """Return the usage of a response."""
    return {"input_tokens": 10, "output_tokens": output_tokens}


@pytest.fixture(params=["chatgpt", "apikey"])
def running(request: pytest.FixtureRequest, service: ServiceFactory, simulator: Simulator) -> RunningService:
    """The service for an owner with a subscription, or with an API key; alice may run one turn at a time."""
    user = {"name": "alice", "token": BEARER_TOKEN}
    if request.param == "chatgpt":
        return service(user_entries=[user])
    credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
    return service(credential=credential, user_entries=[user])


def completed_texts(connection: Any, count: int) -> dict[str | None, str]:
    """Return the text of the next responses that complete, by their lane."""
    texts: dict[str | None, str] = {}
    for event in connection:
        assert event.type not in ("error", "response.failed", "response.steer.failed"), event
        if event.type == "response.completed":
            texts[event.stream_id] = event.response.output_text
            if len(texts) == count:
                break
    return texts


def test_lanes_and_steering(running: RunningService) -> None:
    """Two responses at once, and one that is steered: each has the right text, and a row of its own."""
    gate = running.simulator.gate().after(2)

    def plan(next_plan: Plan) -> None:
        for path in ("/v1/responses", "/backend-api/codex/responses"):
            running.simulator.plan(next_plan, path=path)

    with connect(running) as client, client.responses.connect() as connection:
        plan(Plan(text="Slowly.", gate=gate, usage=usage(11)))
        connection.response.create(model="gpt-5.5", input="one", store=False, stream_id="slow")
        assert gate.reached.wait(20)
        plan(Plan(text="Fast.", usage=usage(22)))
        connection.response.create(model="gpt-5.4", input="two", store=False, stream_id="fast")
        assert completed_texts(connection, 1) == {"fast": "Fast."}
        gate.release()
        assert completed_texts(connection, 1) == {"slow": "Slowly."}

        plan(Plan(text="Draft.", silence_after=3, usage=usage(33)))
        plan(Plan(text="Brief.", usage=usage(44)))
        connection.response.create(model="gpt-6-astra", input="three", store=False)
        created = next(event for event in connection if event.type == "response.created")
        connection.response.steer(previous_response_id=created.response.id, input="Be brief.")
        assert completed_texts(connection, 1) == {None: "Brief."}
    assert recorded(running) == [
        ("gpt-5.4", "completed", "", 22),
        ("gpt-5.5", "completed", "", 11),
        ("gpt-6-astra", "incomplete", "steered", 33),
        ("gpt-6-astra", "completed", "", 44),
    ]


@pytest.mark.parametrize("running", ["apikey"], indirect=True)
def test_background_and_realtime(running: RunningService) -> None:
    """A response in the background counts once, when it is fetched; a realtime session is refused with a sentence."""
    running.simulator.background_polls = 1
    running.simulator.plan(Plan(text="At last.", usage=usage(55)), path="/v1/responses")
    with connect(running) as client:
        response = client.responses.create(model="gpt-5.5", input="take your time", background=True)
        assert response.status == "queued"
        while response.status in ("queued", "in_progress"):
            response = client.responses.retrieve(response.id)
        assert response.output_text == "At last."
        with (
            pytest.raises((InvalidStatus, openai.OpenAIError)) as refused,
            client.realtime.connect(model="gpt-realtime"),
        ):
            pass
        assert "Realtime sessions are not relayed" in str(
            getattr(getattr(refused.value, "response", refused.value), "body", "")
        )
    assert recorded(running) == [("gpt-5.5", "completed", "", 55)]
