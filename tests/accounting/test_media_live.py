"""Each kind of turn through the real service: its row has exactly what the simulated platform billed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pytest
import requests

from ocm_wsgi.protocol.responses.turn import Usage
from ocm_wsgi.simulator import Plan, Simulator
from tests.api_requests import post
from tests.conftest import ALICE, RunningService, start_service
from tests.views.dashboard.test_dashboard import Browser

JSON = "application/json"
FORM = "multipart/form-data; boundary=b"
COUNTS = tuple(asdict(Usage(0, 0, 0)))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with an API key."""
    folder = tmp_path_factory.mktemp("media") / "service"
    with (
        Simulator() as simulator,
        start_service(simulator, folder, credential={"OPENAI_API_KEY": simulator.api_key()}, workers=1) as running,
    ):
        yield running


def row(running: RunningService) -> dict[str, Any]:
    """Return the newest row of the ledger."""
    with closing(sqlite3.connect(running.settled_database())) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("SELECT * FROM turn ORDER BY started_at DESC, id DESC LIMIT 1").fetchone())


def get(running: RunningService, target: str) -> Any:
    """Return the JSON of an answer to Alice."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(running.url + target, headers={"Authorization": f"Bearer {ALICE}"}, timeout=30)
    return answer.json()


def form(file_bytes: int, **fields: str) -> bytes:
    """Return a form of some fields and a file."""
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts.append(('name="file"; filename="x.wav"', b"\1" * file_bytes))
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (name.encode(), value) for name, value in parts
    )
    return body + b"--b--\r\n"


PROMPT = "a small red fox in the snow"


@pytest.mark.parametrize(
    ("target", "body", "media_type"),
    [
        pytest.param("responses", {"model": "gpt-5.5", "input": "hi", "stream": True}, JSON, id="responses"),
        pytest.param("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}, JSON, id="completion"),
        pytest.param(
            "completions",
            {
                "model": "gpt-3.5-turbo-instruct",
                "prompt": "hi",
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            JSON,
            id="completion-stream",
        ),
        pytest.param("embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]}, JSON, id="embeddings"),
        pytest.param(
            "embeddings", {"model": "text-embedding-3-small", "input": ["a"] * 20_000}, JSON, id="many-embeddings"
        ),
        pytest.param("moderations", {"model": "omni-moderation-latest", "input": ["a", "b"]}, JSON, id="moderation"),
        pytest.param("images/generations", {"model": "gpt-image-2", "prompt": PROMPT, "n": 2}, JSON, id="images"),
        pytest.param("images/generations", {"model": "dall-e-3", "prompt": PROMPT}, JSON, id="image-without-tokens"),
        pytest.param(
            "images/generations",
            {"model": "gpt-image-2", "prompt": PROMPT, "n": 2, "stream": True},
            JSON,
            id="image-stream",
        ),
        pytest.param("images/edits", form(500, model="gpt-image-2", prompt=PROMPT), FORM, id="image-edit"),
        pytest.param(
            "images/edits", form(500, model="gpt-image-2", prompt=PROMPT, stream="true"), FORM, id="image-edit-stream"
        ),
        pytest.param("audio/speech", {"model": "tts-1", "voice": "alloy", "input": PROMPT}, JSON, id="speech"),
        pytest.param(
            "audio/speech",
            {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": PROMPT, "stream_format": "sse"},
            JSON,
            id="speech-stream",
        ),
        pytest.param("audio/transcriptions", form(64_000, model="whisper-1"), FORM, id="transcription-by-time"),
        pytest.param("audio/transcriptions", form(64_000, model="gpt-4o-transcribe"), FORM, id="transcription"),
        pytest.param(
            "audio/transcriptions",
            form(64_000, model="gpt-4o-transcribe", stream="true"),
            FORM,
            id="transcription-stream",
        ),
        pytest.param(
            "audio/translations",
            form(48_000, model="whisper-1", response_format="verbose_json"),
            FORM,
            id="translation",
        ),
        pytest.param("videos", {"model": "sora-2", "prompt": PROMPT, "seconds": "8"}, JSON, id="video"),
    ],
)
def test_a_row_has_what_was_billed(
    running: RunningService, target: str, body: dict[str, Any] | bytes, media_type: str
) -> None:
    """Tokens of text, images and audio, and time, characters and items are recorded as upstream billed them."""
    running.simulator.clear()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = post(running, f"/v1/{target}", data=data, headers={"Content-Type": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.content
    billed, recorded = running.simulator.turns[-1], row(running)
    expected = {name: getattr(billed, name, 0) for name in COUNTS} | dict(billed.others)
    assert {name: recorded[name] or 0 for name in COUNTS} == expected
    assert recorded["input_tokens"] is not None
    assert recorded["model"] == billed.model
    assert (recorded["status"], recorded["transport"]) == (billed.status, billed.transport)


def test_images_without_reported_usage_are_estimated(running: RunningService) -> None:
    """Where upstream reports no tokens for its images, they are charged as the dearest ones, and marked."""
    running.simulator.plan(Plan(json={"created": 1, "data": [{"b64_json": "eA=="}]}))
    post(running, "/v1/images/generations", json={"model": "gpt-image-2", "prompt": PROMPT})
    recorded = row(running)
    assert [recorded[name] for name in ("image_output_tokens", "items", "estimated")] == [6240, 1, 1]
    assert recorded["cost_micro_usd"] > 6240 * 30


def test_a_transcript_without_reported_usage_is_estimated(running: RunningService) -> None:
    """A transcript as plain text reports no usage: its file is charged by its size."""
    post(
        running,
        "/v1/audio/transcriptions",
        data=form(64_000, model="whisper-1", response_format="srt"),
        headers={"Content-Type": FORM},
    )
    recorded = row(running)
    assert recorded["estimated"]
    assert recorded["media_ms"] > running.simulator.turns[-1].others["media_ms"]


def test_what_hosted_tools_used_is_recorded(running: RunningService) -> None:
    """Searches and images of hosted tools are added to what the model used, and to the cost."""
    usage = {"input_tokens": 10, "output_tokens": 4}
    images = {"input_tokens": 5, "output_tokens": 1056, "output_tokens_details": {"image_tokens": 1056}}
    tools = {"image_gen": images, "web_search": {"num_requests": 2}}
    body = {"id": "resp_1", "object": "response", "model": "gpt-5.5", "status": "completed", "usage": usage}
    running.simulator.plan(Plan(json={**body, "tool_usage": tools}))
    post(running, "/v1/responses", json={"model": "gpt-5.5", "input": "hi"})
    recorded = row(running)
    assert [recorded[name] for name in ("input_tokens", "output_tokens", "image_output_tokens", "items")] == [
        15,
        1060,
        1056,
        2,
    ]
    assert recorded["cost_micro_usd"] == 10 * 5 + 4 * 30 + 5 * 5 + 1056 * 40 + 2 * 10_000


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_without_a_media_type_is_counted(running: RunningService, stream: bool) -> None:
    """A stream of responses that does not say that it is one is counted, and so is an object."""
    running.simulator.clear()
    running.simulator.plan(Plan(no_content_type=True))
    answer = post(running, json={"model": "gpt-5.5", "input": "hi", "stream": stream})
    assert "Content-Type" not in answer.headers
    assert answer.content
    recorded, billed = row(running), running.simulator.turns[-1]
    assert (recorded["input_tokens"], recorded["output_tokens"]) == (billed.input_tokens, billed.output_tokens)
    assert (recorded["status"], recorded["estimated"]) == ("completed", 0)


def test_a_batch_is_settled_once_it_has_ended(running: RunningService) -> None:
    """A batch is a turn in progress until an answer says that it has ended; then it has what it used, at half price."""
    file = post(running, "/v1/files", data=form(100, purpose="batch"), headers={"Content-Type": FORM}).json()["id"]
    batch = {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}
    running.simulator.background_polls = 1
    batch_id = post(running, "/v1/batches", json=batch).json()["id"]
    created = row(running)
    assert (created["status"], created["cost_micro_usd"]) == ("in_progress", None)
    statuses = [get(running, f"/v1/batches/{batch_id}")["status"] for _ in range(3)]
    running.simulator.background_polls = 0
    assert statuses == ["in_progress", "completed", "completed"]
    settled = row(running)
    assert settled["id"] == created["id"]
    counts = [settled[name] for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")]
    assert (settled["status"], counts) == ("completed", [3000, 1000, 500, 100])
    assert settled["cost_micro_usd"] * 2 == 2000 * 5 + 1000 * 0.5 + 500 * 30


def test_units_are_shown(running: RunningService) -> None:
    """The page of turns and its CSV file show what was not text."""
    post(running, "/v1/images/generations", json={"model": "gpt-image-2", "prompt": PROMPT, "n": 2})
    with Browser(running.url) as alice:
        alice.sign_in(ALICE)
        assert "2,112 image tokens out, 2 items" in alice.get("turns").text
        header, newest = (line.split(",") for line in alice.get("turns.csv").text.splitlines()[:2])
    turn = dict(zip(header, newest, strict=True))
    assert (turn["model"], turn["image_output_tokens"], turn["items"]) == ("gpt-image-2", "2112", "2")
