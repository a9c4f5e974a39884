"""OpenAI's own Python library, pointed at the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ocm_wsgi.simulator import Plan, Simulator

BEARER_TOKEN = "sk-ocm-alice-with-the-sdk"
MODEL = "gpt-5.5"
TEXT = "Good morning, Alice."


def connect(running: Any, bearer_token: str = BEARER_TOKEN) -> openai.OpenAI:
    """Return a client that does not retry; the caller closes it."""
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=bearer_token, max_retries=0, timeout=20)


@pytest.fixture
def with_chatgpt(service: Any) -> Any:
    """Run the service for an owner with a ChatGPT subscription."""
    return service(users={"alice": BEARER_TOKEN})


@pytest.fixture
def with_api_key(service: Any, simulator: Simulator) -> Any:
    """Run the service for an owner with an API key."""
    credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
    return service(credential=credential, users={"alice": BEARER_TOKEN})


@pytest.fixture
def chatgpt(with_chatgpt: Any) -> Iterator[openai.OpenAI]:
    """Yield alice's client for a subscription whose model answers with a known text."""
    with_chatgpt.simulator.plan(Plan(text=TEXT))
    with connect(with_chatgpt) as client:
        yield client


@pytest.fixture
def platform(with_api_key: Any) -> Iterator[openai.OpenAI]:
    """Yield alice's client for an API key whose model answers with a known text."""
    with_api_key.simulator.plan(Plan(text=TEXT), path="/v1/responses")
    with_api_key.simulator.plan(Plan(text=TEXT), path="/v1/chat")
    with connect(with_api_key) as client:
        yield client


def streamed_text(client: openai.OpenAI) -> str:
    """Return the text of a streamed response from its deltas, and check that its end agrees."""
    with client.responses.create(model=MODEL, input="say hi", store=False, stream=True) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].response.output_text == text
    return text


def test_responses_with_api_key(platform: openai.OpenAI) -> None:
    """A response is returned as one object."""
    assert platform.responses.create(model=MODEL, input="say hi").output_text == TEXT


def test_responses_streamed_with_api_key(platform: openai.OpenAI) -> None:
    """A response is streamed as events."""
    assert streamed_text(platform) == TEXT


def test_responses_streamed_with_chatgpt(chatgpt: openai.OpenAI) -> None:
    """A response is streamed as events with a subscription too."""
    assert streamed_text(chatgpt) == TEXT


def test_models_with_api_key(platform: openai.OpenAI) -> None:
    """The models are listed."""
    assert MODEL in [model.id for model in platform.models.list()]


def test_chat_completions_with_api_key(platform: openai.OpenAI) -> None:
    """A chat completion is returned as one object."""
    completion = platform.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "say hi"}])
    assert completion.choices[0].message.content == TEXT


def test_chat_completions_streamed_with_api_key(platform: openai.OpenAI) -> None:
    """A chat completion is streamed as chunks."""
    messages: Any = [{"role": "user", "content": "say hi"}]
    with platform.chat.completions.create(model=MODEL, messages=messages, stream=True) as stream:
        text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert text == TEXT


def test_chat_completions_with_chatgpt(chatgpt: openai.OpenAI) -> None:
    """A subscription does not offer chat completions, and the error says so."""
    with pytest.raises(openai.BadRequestError) as caught:
        chatgpt.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "say hi"}])
    assert caught.value.code == "endpoint_unavailable"


@pytest.mark.parametrize("kind", ["with_chatgpt", "with_api_key"])
def test_invalid_token(kind: str, request: pytest.FixtureRequest) -> None:
    """An unknown bearer token raises the library's authentication error, and nothing reaches upstream."""
    running = request.getfixturevalue(kind)
    with connect(running, "sk-ocm-nobody") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_bearer_token"
    assert running.simulator.requests == []
