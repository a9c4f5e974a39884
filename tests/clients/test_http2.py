"""HTTP/2 clients of nginx: OpenAI's own library, several streams on one connection, and disconnects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import openai
import pytest

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.clients.http2 import Http2Client, connect_http2
from tests.conftest import ALICE
from tests.faults.stack import BODY, GONE_SECONDS, Stack

MODEL = "gpt-5.5"
TEXT = "Good morning through nginx."
TARGET = "/v1/responses"
STREAMS = 8
HTTP_VERSIONS = pytest.mark.parametrize(
    "http_version", ["HTTP/1.1", "HTTP/2"], ids=lambda version: version.replace("/", "-")
)


@contextmanager
def library(stack: Stack, http_version: str) -> Iterator[openai.OpenAI]:
    """Yield OpenAI's library, which trusts the root and must use this HTTP version only."""
    spoken: set[str] = set()
    with (
        openai.DefaultHttpxClient(
            http2=http_version == "HTTP/2",
            verify=stack.nginx.own_tls(),
            event_hooks={"response": [lambda response: spoken.add(response.http_version)]},
        ) as http_client,
        openai.OpenAI(
            base_url=f"{stack.nginx.url}/v1", api_key=ALICE, max_retries=0, timeout=20, http_client=http_client
        ) as client,
    ):
        yield client
    assert spoken == {http_version}


@HTTP_VERSIONS
def test_library_streamed(stack: Stack, http_version: str) -> None:
    """Events reach the library one by one: the first arrives before the second is sent."""
    gate = Gate().after(1)
    stack.simulator.plan(Plan(text=TEXT, gate=gate))
    with library(stack, http_version) as client:
        stream = client.responses.create(model=MODEL, input="say hi", store=False, stream=True)
        assert next(stream).type == "response.created"
        gate.release()
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == TEXT


@HTTP_VERSIONS
def test_library_not_streamed(start_stack: Callable[..., Stack], simulator: Simulator, http_version: str) -> None:
    """A response is not streamed, here with an owner's API key and a request of 20 MB."""
    stack = start_stack(credential={"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()})
    simulator.plan(Plan(text=TEXT), path=TARGET)
    with library(stack, http_version) as client:
        assert client.responses.create(model=MODEL, input="x" * 20_000_000).output_text == TEXT
    (seen,) = simulator.requests
    assert seen.body_length > 20_000_000
    assert seen.field("Content-Length") == str(seen.body_length)


def test_streams_of_one_connection(stack: Stack) -> None:
    """Eight streams share a connection: each event arrives when it is sent, in whatever order they are sent."""
    gates = [Gate().after(1) for _ in range(STREAMS)]
    bodies: list[bytes] = []
    with (
        ExitStack() as streams,
        httpx2.Client(http2=True, verify=stack.nginx.own_tls(), trust_env=False, timeout=20) as client,
    ):
        responses = []
        for gate in gates:
            stack.simulator.plan(Plan(gate=gate))
            responses.append(streams.enter_context(post(client, stack)))
        pieces = [response.iter_raw() for response in responses]
        firsts = [next(each) for each in pieces]
        assert all(first.count(b"\n\n") == 1 and b"response.created" in first for first in firsts)
        for number in reversed(range(STREAMS)):
            gates[number].release()
            bodies.append(firsts[number] + b"".join(pieces[number]))
        assert {response.http_version for response in responses} == {"HTTP/2"}
        (address,) = {response.extensions["network_stream"].get_extra_info("client_addr") for response in responses}
        assert address is not None
    assert {hashlib.sha256(body).hexdigest() for body in bodies} == {sent.body_sha256 for sent in stack.simulator.sent}


def post(client: httpx2.Client, stack: Stack) -> Any:
    """Start a turn; return the response as a context manager."""
    return client.stream(
        "POST", f"{stack.nginx.url}{TARGET}", content=BODY, headers={"Authorization": f"Bearer {ALICE}"}
    )


def begin(client: Http2Client, stack: Stack, plan: Plan) -> int:
    """Start a turn, and read its first event."""
    stack.simulator.plan(plan)
    stream = client.post(TARGET, BODY, ALICE)
    assert b"response.created" in client.read_event(stream)
    return stream


def test_stream_reset(stack: Stack) -> None:
    """RST_STREAM ends the upstream request within a second, although upstream is silent; other streams continue."""
    simulator = stack.simulator
    gate = Gate().after(1)
    with connect_http2(stack.nginx) as client:
        left = begin(client, stack, Plan(silence_after=1))
        stays = begin(client, stack, Plan(gate=gate))
        assert simulator.open_streams == 2
        client.reset(left)
        assert simulator.wait_for(lambda: simulator.open_streams == 1, GONE_SECONDS)
        gate.release()
        assert b"response.completed" in client.read_rest(stays)
    assert sorted(turn.status for turn in simulator.turns) == ["completed", "cut"]


def test_connection_closed_with_open_streams(stack: Stack) -> None:
    """Closing a connection ends all of its upstream requests within a second."""
    simulator = stack.simulator
    with connect_http2(stack.nginx) as client:
        for _ in range(STREAMS):
            begin(client, stack, Plan(silence_after=1))
        assert simulator.open_streams == STREAMS
    assert simulator.wait_for(lambda: simulator.open_streams == 0, GONE_SECONDS)
