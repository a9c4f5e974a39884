"""What upstream reports of a turn, in every shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.observer import observer_for
from ocm_wsgi.protocol.responses.turn import Outcome, ToolUsage, Usage
from ocm_wsgi.protocol.responses.usage import answer_usage, tool_usage_of

IMAGE_USAGE: dict[str, Any] = {
    "input_tokens": 50,
    "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
    "output_tokens": 4160,
    "total_tokens": 4210,
}


@pytest.mark.parametrize(
    ("family", "body", "expected"),
    [
        pytest.param(
            "chat",
            {
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 70,
                    "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 30, "image_tokens": 5},
                    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 60},
                }
            },
            Usage(100, 20, 70, 3, image_input_tokens=5, audio_input_tokens=30, audio_output_tokens=60),
            id="chat-with-audio",
        ),
        pytest.param("embeddings", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(8, 0, 0), id="embeddings"),
        pytest.param(
            "images",
            {"data": [{"b64_json": "x"}] * 2, "usage": IMAGE_USAGE},
            Usage(50, 0, 4160, image_input_tokens=40, image_output_tokens=4160, items=2),
            id="images",
        ),
        pytest.param(
            "images",
            {
                "data": [{}],
                "usage": IMAGE_USAGE | {"output_tokens_details": {"image_tokens": 4000, "text_tokens": 160}},
                "svg_usage": {"model": "m", "input_tokens": 5, "output_tokens": 6, "reasoning_tokens": 2},
            },
            Usage(55, 0, 4166, 2, image_input_tokens=40, image_output_tokens=4000, items=1),
            id="svg",
        ),
        pytest.param("images", {"data": [{"url": "x"}] * 3}, Usage(0, 0, 0, items=3), id="images-without-tokens"),
        pytest.param("images", {"created": 1}, None, id="no-images"),
        pytest.param(
            "transcription",
            {
                "text": "x",
                "usage": {
                    "type": "tokens",
                    "input_tokens": 14,
                    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
                    "output_tokens": 45,
                },
            },
            Usage(14, 0, 45, audio_input_tokens=10),
            id="transcription-tokens",
        ),
        pytest.param(
            "transcription",
            {"usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45}},
            Usage(14, 0, 45, audio_input_tokens=14),
            id="transcription-without-details",
        ),
        pytest.param(
            "transcription",
            {"text": "x", "usage": {"type": "duration", "seconds": 9.5}},
            Usage(0, 0, 0, media_ms=9500),
            id="transcription-seconds",
        ),
        pytest.param("transcription", {"text": "x", "duration": 3}, Usage(0, 0, 0, media_ms=3000), id="verbose"),
        pytest.param("transcription", {"text": "x"}, None, id="translation"),
        pytest.param("transcription", {"usage": {"type": "duration", "seconds": -1}}, None, id="negative-seconds"),
        pytest.param("transcription", {"duration": "inf"}, None, id="endless"),
        pytest.param("video", {"id": "video_1", "seconds": "8"}, Usage(0, 0, 0, media_ms=8000), id="video"),
        pytest.param("moderation", {"results": [{}, {}]}, Usage(0, 0, 0, items=2), id="moderation"),
        pytest.param("search", {"output": "x"}, Usage(0, 0, 0, items=1), id="search"),
        pytest.param("container", {"id": "cntr_1"}, Usage(0, 0, 0, items=1), id="container"),
        pytest.param("fine_tuning", {"trained_tokens": None}, None, id="training"),
        pytest.param("fine_tuning", {"trained_tokens": 5000}, Usage(5000, 0, 0), id="trained"),
        pytest.param(
            "batch",
            {"usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}},
            Usage(9, 4, 2),
            id="batch",
        ),
        pytest.param(
            "eval",
            {
                "per_model_usage": [
                    {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 2},
                    {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
                ]
            },
            Usage(10, 4, 3),
            id="eval",
        ),
        pytest.param("eval", {"per_model_usage": []}, None, id="eval-queued"),
        pytest.param(
            "realtime",
            {
                "usage": {
                    "input_tokens": 127,
                    "output_tokens": 148,
                    "input_token_details": {
                        "text_tokens": 119,
                        "audio_tokens": 8,
                        "cached_tokens": 64,
                        "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
                    },
                    "output_token_details": {"text_tokens": 36, "audio_tokens": 112},
                }
            },
            Usage(127, 64, 148, audio_input_tokens=8, audio_cached_tokens=4, audio_output_tokens=112),
            id="realtime",
        ),
    ],
)
def test_answer_usage(family: Family, body: dict[str, Any], expected: Usage | None) -> None:
    """Text, images and audio are counted apart, and what is not billed by tokens is counted in its own unit."""
    assert answer_usage(body, family) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        (
            {"tool_usage": {"image_gen": {"input_tokens": 0, "output_tokens": 0}, "web_search": {"num_requests": 0}}},
            None,
        ),
        ({"tool_usage": {"web_search": {"num_requests": 3}}}, ToolUsage(web_searches=3)),
        (
            {
                "tool_usage": {
                    "image_gen": {
                        **IMAGE_USAGE,
                        "cached_tokens": 12,
                        "cached_tokens_details": {"cached_image_tokens": 8, "cached_text_tokens": 4},
                        "output_tokens_details": {"image_tokens": 4000, "text_tokens": 160},
                    },
                    "web_search": {"num_requests": 1},
                }
            },
            ToolUsage(
                Usage(50, 12, 4160, image_input_tokens=40, image_cached_tokens=8, image_output_tokens=4000),
                web_searches=1,
            ),
        ),
        ({"tool_usage": {"web_search": {"num_requests": "3"}}}, None),
        (
            {
                "output": [
                    {"type": "web_search_call", "action": {"type": "search"}},
                    {"type": "web_search_call", "action": {"type": "open_page"}},
                    {"type": "file_search_call", "queries": ["x"]},
                    {"type": "file_search_call", "queries": ["y"]},
                    {"type": "message"},
                ]
            },
            ToolUsage(web_searches=1, file_searches=2),
        ),
    ],
)
def test_tool_usage_of(body: dict[str, Any], expected: ToolUsage | None) -> None:
    """What hosted tools used is apart from the usage of the model; without a report, searches are counted."""
    found = tool_usage_of(body)
    assert found == expected
    assert found is None or found.total.items == found.web_searches + found.file_searches


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)


@pytest.mark.parametrize("size", [1, 100, 65536])
@pytest.mark.parametrize(
    ("family", "events", "expected"),
    [
        pytest.param(
            "speech",
            [
                {"type": "speech.audio.delta", "audio": "x" * 3000},
                {"type": "speech.audio.done", "usage": {"input_tokens": 9, "output_tokens": 70, "total_tokens": 79}},
            ],
            Outcome("completed", Usage(9, 0, 70, audio_output_tokens=70)),
            id="speech",
        ),
        pytest.param(
            "transcription",
            [
                {"type": "transcript.text.delta", "delta": "hello"},
                {
                    "type": "transcript.text.done",
                    "text": "hello",
                    "usage": {"input_tokens": 9, "input_token_details": {"audio_tokens": 8}, "output_tokens": 2},
                },
            ],
            Outcome("completed", Usage(9, 0, 2, audio_input_tokens=8)),
            id="transcription",
        ),
        pytest.param(
            "images",
            [
                {"type": "image_generation.partial_image", "b64_json": "x" * 3000},
                {"type": "image_generation.completed", "b64_json": "x" * 3000, "usage": IMAGE_USAGE},
                {"type": "image_generation.completed", "b64_json": "x" * 3000, "usage": IMAGE_USAGE},
            ],
            Outcome("completed", Usage(100, 0, 8320, image_input_tokens=80, image_output_tokens=8320, items=2)),
            id="two-images",
        ),
        pytest.param(
            "images",
            [{"type": "image_edit.completed", "b64_json": "x" * 3000, "usage": None}],
            Outcome("completed", Usage(0, 0, 0, items=1)),
            id="image-without-usage",
        ),
        pytest.param(
            "images", [{"type": "error", "error": {"code": "boom"}}], Outcome("error", error_code="boom"), id="error"
        ),
        pytest.param("speech", [{"type": "speech.audio.delta", "audio": "x"}], Outcome("cut"), id="cut"),
        pytest.param(
            "completions",
            [
                {"object": "text_completion", "choices": [{"text": "hi"}]},
                {"object": "text_completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
            ],
            Outcome("completed", Usage(3, 0, 1)),
            id="legacy-completion",
        ),
    ],
)
def test_usage_in_streams(family: Family, events: list[dict[str, Any]], expected: Outcome, size: int) -> None:
    """The events that report usage are found in the streams of every endpoint, in reads of any size."""
    observer = observer_for(status=200, media_type="text/event-stream", family=family)
    data = stream(*events)
    for start in range(0, len(data), size):
        observer.feed(data[start : start + size])
    assert observer.finish() == expected
