"""The platform API, used through OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from ocm_wsgi.simulator import DEFAULT_TEXT, Plan, Simulator
from tests.simulator.simulator_clients import call


@pytest.fixture
def client(sim: Simulator) -> Iterator[OpenAI]:
    with OpenAI(api_key=sim.api_key(), base_url=f"{sim.api_base_url}/v1", max_retries=0) as found:
        yield found


def test_responses_whole(sim: Simulator, client: OpenAI) -> None:
    """A response that is not streamed has text and usage, and is recorded."""
    response = client.responses.create(model="gpt-5.5", input="hi")
    assert response.output_text == DEFAULT_TEXT
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens) == (1234, 1024)
    assert [(turn.transport, turn.account, turn.input_tokens) for turn in sim.turns] == [("json", "api", 1234)]


def test_responses_streamed(sim: Simulator, client: OpenAI) -> None:
    """A streamed response has the events of a turn, in both of the SDK's interfaces."""
    with client.responses.create(model="gpt-5.5", input="hi", stream=True) as stream:
        assert [event.type for event in stream][-1] == "response.completed"
    with client.responses.stream(model="gpt-5.5", input="hi") as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events.get_final_response().output_text == DEFAULT_TEXT
    assert [turn.transport for turn in sim.turns] == ["sse", "sse"]


def test_responses_are_stored(client: OpenAI) -> None:
    """A stored response can be fetched and deleted, once."""
    response = client.responses.create(model="gpt-5.5", input="hi")
    assert client.responses.retrieve(response.id).output_text == DEFAULT_TEXT
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_failed_and_incomplete_responses(sim: Simulator, client: OpenAI) -> None:
    """An unstreamed response can be incomplete or failed, and is recorded as such."""
    sim.plan(Plan(terminal="incomplete"))
    sim.plan(Plan(terminal="failed", error=("server_error", "broken")))
    assert client.responses.create(model="m", input="hi").status == "incomplete"
    error = client.responses.create(model="m", input="hi").error
    assert error is not None
    assert error.message == "broken"
    assert [turn.status for turn in sim.turns] == ["incomplete", "failed"]


def test_models(client: OpenAI) -> None:
    """Models are listed, and fetched by name."""
    names = [model.id for model in client.models.list()]
    assert client.models.retrieve(names[0]).id == names[0]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_chat_completions_whole(sim: Simulator, client: OpenAI) -> None:
    """A chat completion has text and usage, and is recorded."""
    completion = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert completion.choices[0].message.content == DEFAULT_TEXT
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 1234
    assert [(turn.transport, turn.output_tokens) for turn in sim.turns] == [("json", 56)]


@pytest.mark.parametrize(("include_usage", "tokens"), [(True, 1234), (False, 0)])
def test_chat_completions_streamed(sim: Simulator, client: OpenAI, include_usage: bool, tokens: int) -> None:
    """The chunks contain the text; usage is reported and recorded if requested."""
    stream = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": include_usage},
    )
    with stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == DEFAULT_TEXT
    assert [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage] == ([1234] if include_usage else [])
    assert [(turn.transport, turn.status, turn.input_tokens) for turn in sim.turns] == [("sse", "completed", tokens)]


def test_chat_stream_without_terminal_is_cut(sim: Simulator, client: OpenAI) -> None:
    """A chat stream can end early; its turn is recorded as cut."""
    sim.plan(Plan(terminal=None))
    messages: Any = [{"role": "user", "content": "hi"}]
    with client.chat.completions.create(model="m", messages=messages, stream=True) as stream:
        assert not [chunk for chunk in stream if chunk.choices[0].finish_reason]
    assert sim.wait_for(lambda: [turn.status for turn in sim.turns] == ["cut"])


def test_embeddings(client: OpenAI) -> None:
    """Each input gets a vector."""
    found = client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    assert [each.index for each in found.data] == [0, 1]


def test_bad_key_raises_authentication_error(sim: Simulator) -> None:
    """Unknown and missing keys are refused in OpenAI's format, without repeating the whole key."""
    with OpenAI(api_key="sk-proj-not-a-key", base_url=f"{sim.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        assert "sk-proj-not-a-key" not in str(caught.value)
    assert call(sim, "GET", "/v1/models").status == 401


def test_other_paths_echo(sim: Simulator) -> None:
    """Any other path returns the request."""
    fields = {"Authorization": f"Bearer {sim.api_key()}", "X-Mine": "1"}
    reply = call(sim, "PATCH", "/v1/files/a%2Fb?x=1", body=b"abc", fields=fields).json
    assert (reply["method"], reply["target"], reply["body_length"]) == ("PATCH", "/v1/files/a%2Fb?x=1", 3)
    assert ["X-Mine", "1"] in reply["fields"]
    assert call(sim, "GET", "/v1/responses", fields=fields).json["target"] == "/v1/responses"


def test_nothing_else_is_served(sim: Simulator) -> None:
    """A path outside of both APIs is not found."""
    assert call(sim, "GET", "/elsewhere").status == 404
