"""The models of requests in every kind of body, as clients see them, with an API key behind the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from ocm_wsgi.simulator import Simulator
from tests.api_requests import post
from tests.conftest import ALICE, RunningService, start_service

JSON = "application/json"
FORM = "multipart/form-data; boundary=b"


def form(*fields: tuple[str, str]) -> bytes:
    """Return a multipart form."""
    parts = (f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields)
    return f"{''.join(parts)}--b--\r\n".encode()


AUDIO = ('file"; filename="a.wav', "RIFF" * 1000)
LARGE = json.dumps("x" * (1 << 20))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose only user may use the models ``gpt-*``."""
    folder: Path = tmp_path_factory.mktemp("models") / "service"
    entries = [{"name": "alice", "token": ALICE, "models": ["gpt-*"]}]
    with (
        Simulator() as simulator,
        start_service(
            simulator, folder, credential={"OPENAI_API_KEY": simulator.api_key()}, user_entries=entries, workers=1
        ) as running,
    ):
        yield running


@pytest.mark.parametrize(
    ("target", "media_type", "body"),
    [
        pytest.param("responses", JSON, b'{"model":"gpt-5.5","input":"hi"}', id="json"),
        pytest.param("responses", JSON, f'{{"input":{LARGE},"model":"gpt-5.5"}}'.encode(), id="large"),
        pytest.param("audio/transcriptions", FORM, form(AUDIO, ("model", "gpt-4o-transcribe")), id="form"),
        pytest.param("audio/transcriptions", FORM, form(("model", "gpt-4o-transcribe"), AUDIO), id="form-first"),
        pytest.param("vector_stores/vs_1/search", JSON, b'{"query":"x"}', id="names-none"),
    ],
)
def test_allowed_models_pass(running: RunningService, target: str, media_type: str, body: bytes) -> None:
    """A model that the user may use is found in JSON and in forms, and what needs no model needs to name none."""
    answer = post(running, f"/v1/{target}", data=body, headers={"Content-Type": media_type})
    assert answer.status_code != 400, answer.text


def test_requests_that_need_no_model_pass(running: RunningService) -> None:
    """Uploading, completing and cancelling name no model, because they need none."""
    upload = post(running, "/v1/uploads", json={"purpose": "batch", "filename": "x", "bytes": 1, "mime_type": "x/y"})
    background = post(running, json={"model": "gpt-5.5", "input": "hi", "background": True})
    upload_id, response_id = upload.json()["id"], background.json()["id"]
    for target, body in (
        ("files", form(("purpose", "batch"), AUDIO)),
        (f"uploads/{upload_id}/parts", form(AUDIO)),
        (f"uploads/{upload_id}/complete", None),
        (f"responses/{response_id}/cancel", None),
    ):
        given: dict[str, Any] = {"json": {}} if body is None else {"data": body, "headers": {"Content-Type": FORM}}
        answer = post(running, f"/v1/{target}", **given)
        assert answer.status_code == 200, (target, answer.text)


def test_the_openai_library_is_understood(running: RunningService) -> None:
    """The forms that OpenAI's own library sends are read."""
    audio, image = ("a.wav", b"RIFF" * 1000, "audio/wav"), ("a.png", b"\x89PNG" * 1000, "image/png")
    with OpenAI(base_url=f"{running.url}/v1", api_key=ALICE, max_retries=0, timeout=30) as client:
        transcript = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=audio)
        assert transcript.text
        edited = client.images.edit(model="gpt-image-2", image=[image, image], prompt="a hat", n=2)
        assert edited.data is not None
        assert len(edited.data) == 2
        with pytest.raises(BadRequestError, match="You may not use the model 'whisper-1'"):
            client.audio.transcriptions.create(model="whisper-1", file=audio)


@pytest.mark.parametrize(
    ("media_type", "body", "reason"),
    [
        pytest.param(JSON, b'{"model":"o3"}', "You may not use the model 'o3'", id="another"),
        pytest.param(JSON, b'{"model":"gpt-5.5","model":"o3"}', "names each of its members once", id="twice"),
        pytest.param(
            JSON,
            f'{{"model":"gpt-5.5","input":{LARGE},{" " * 800}"model":"o3"}}'.encode(),
            "names each of its members once",
            id="twice-after-blanks",
        ),
        pytest.param(JSON, '{"model":"gpt-5.5"}'.encode("utf-16"), "UTF-8", id="utf-16"),
        pytest.param(JSON, b'\xef\xbb\xbf{"model":"gpt-5.5"}', "UTF-8", id="byte-order-mark"),
        pytest.param(JSON, b'{"model":"gpt-5.5"}{"model":"o3"}', "one JSON object", id="two-documents"),
        pytest.param(JSON, f'x{{"input":{LARGE},"model":"gpt-5.5"}}'.encode(), "one JSON object", id="text-before"),
        pytest.param("text/plain", b'{"model":"gpt-5.5"}', "neither JSON nor a form", id="media-type"),
        pytest.param(FORM, b'{"model":"gpt-5.5"}\r\n' + form(("model", "o3")), "is not a form", id="preamble"),
        pytest.param(FORM, form(("model", "gpt-5.5"), ("model", "o3")), "is not a form", id="form-twice"),
        pytest.param(FORM, form(AUDIO), "Cannot determine the model of the request; ", id="form-without"),
    ],
)
def test_unknown_models_are_refused(running: RunningService, media_type: str, body: bytes, reason: str) -> None:
    """A body that upstream might read differently is refused with a sentence that says why."""
    running.simulator.clear()
    answer = post(running, data=body, headers={"Content-Type": media_type})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "model_not_allowed"
    assert reason in error["message"]
    assert error["message"].endswith("you may use: gpt-*.")
    assert not running.simulator.requests
