"""Estimates against the simulator's exact counts."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses import estimate
from ocm_wsgi.protocol.responses.estimate import IMAGE_TOKENS, InputMeter, OutputMeter
from ocm_wsgi.protocol.responses.observer import JsonObserver, observer_for
from ocm_wsgi.protocol.responses.turn import Usage
from ocm_wsgi.simulator import tokens
from ocm_wsgi.simulator.model import Output, as_sse
from ocm_wsgi.simulator.plans import Plan

SOURCE = Path(estimate.__file__).read_text()
PROSE = (Path(__file__).parents[3] / "README.md").read_text()
RANDOM = random.Random(13)
NOISE = " ".join(base64.b64encode(RANDOM.randbytes(9)).decode() for _ in range(300))
NUMBERS = " ".join(str(RANDOM.randrange(10**6)) for _ in range(500))
CHINESE = "敏捷的棕色狐狸跳过了懒狗。 今天天气很好，我们去公园散步。 " * 20

#: How far an estimate may be off, as ``docs/accounting.md`` says: the least and the most, as a part of the exact count.
USUAL = (0.95, 1.9)
DENSE = (0.5, 1.9)
# An item may have more members than text, and the last delta may be incomplete.
FEW_TOKENS = 12

TEXTS = {
    "prose": (PROSE, USUAL),
    "source": (SOURCE, USUAL),
    "chinese": (CHINESE, USUAL),
    "numbers": (NUMBERS, DENSE),
    "noise": (NOISE, DENSE),
}
KINDS = st.sampled_from(sorted(TEXTS))
IMAGE = "data:image/png;base64," + base64.b64encode(RANDOM.randbytes(90_000)).decode()


def message(text: str, images: Iterable[str] = ()) -> dict[str, Any]:
    """Return an item of a request's input."""
    content: list[dict[str, Any]] = [{"type": "input_text", "text": text}]
    content += [{"type": "input_image", "image_url": image, "detail": "auto"} for image in images]
    return {"type": "message", "role": "user", "content": content}


def measured(body: bytes, size: int) -> int:
    """Return the estimate for a body that arrives in blocks."""
    meter = InputMeter()
    blocks = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(meter.measured(blocks)) == body
    return meter.finish()


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.tuples(KINDS, st.integers(100, 3000)), min_size=1, max_size=6),
    images=st.integers(0, 3),
    size=st.sampled_from([997, 65536, 10**9]),
    escapes=st.booleans(),
)
def test_input(texts: list[tuple[str, int]], images: int, size: int, escapes: bool) -> None:
    """A request's text is estimated within the stated bounds, however it is spelled, and each image as stated."""
    items = [message(TEXTS[kind][0][:length]) for kind, length in texts]
    exact = tokens.request_tokens({"input": items})
    items.append(message("", [IMAGE] * images))
    body = json.dumps({"model": "gpt-5.5", "input": items}, ensure_ascii=escapes).encode()
    found = measured(body, size) - images * IMAGE_TOKENS
    least = min(TEXTS[kind][1][0] for kind, _ in texts)
    # The rest of a message's JSON takes up to 150 bytes.
    overhead = 50 * (len(items) + images + 1)
    assert least * exact <= found <= 2.1 * exact + overhead


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"type": "input_image", "image_url": IMAGE}, id="responses"),
        pytest.param({"type": "input_image", "image_url": "https://example.com/a.png"}, id="by-url"),
        pytest.param({"type": "image_url", "image_url": {"url": IMAGE}}, id="chat"),
        pytest.param({"type": "image_url", "image_url": {"detail": "high", "url": IMAGE}}, id="chat-with-detail"),
    ],
)
@pytest.mark.parametrize("size", [61, 1000, 10**9])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_image(part: dict[str, Any], size: int, separators: tuple[str, str]) -> None:
    """An image counts as one, and its data does not count as text, wherever its body is split."""
    body = json.dumps({"input": [{"content": [part]}]}, separators=separators).encode()
    assert IMAGE_TOKENS < measured(body, size) < IMAGE_TOKENS + 100


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps({"type": "input_image", "image_url": IMAGE}), id="quoted-json"),
        pytest.param(IMAGE, id="alone"),
        pytest.param('"image_url":"data:image/png;base64,' + "text " * 1000, id="with-quotes"),
    ],
)
def test_text_that_looks_like_an_image(text: str) -> None:
    """Text counts as text, even if it looks like an image."""
    assert measured(json.dumps({"input": text}).encode(), 65536) >= len(text) // 3


def test_input_unknown_media() -> None:
    """Data that is not recognised as an image counts as text: too much, but never too little."""
    part = {"type": "input_file", "file_data": "data:application/pdf;base64," + "A" * 30_000}
    assert measured(json.dumps({"input": [{"content": [part]}]}).encode(), 4096) >= 10_000


def events_of(text: str, padding: int) -> list[bytes]:
    """Return the events of an answer, without the terminal one."""
    plan = Plan(text=text, event_bytes=padding, terminal=None)
    request = {"model": "gpt-5.5", "instructions": PROSE}
    output = Output(request, plan, f"resp_{'a' * 48}", created_at=1, number=1, account="a")
    return [as_sse(event) for event, _ in output.events()]


def deltas_of(events: list[bytes]) -> list[str]:
    """Return the text in some events, in deltas."""
    parsed = [json.loads(event.split(b"data: ", 1)[1]) for event in events]
    return [event["delta"] for event in parsed if event["type"] == "response.output_text.delta"]


def split(events: list[bytes], how: str) -> list[bytes]:
    """Return the events in reads."""
    data = b"".join(events)
    if how == "events":
        return events
    if how == "random":
        cuts = sorted(RANDOM.randrange(len(data)) for _ in range(len(data) // 700))
        return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    size = 65536 if how == "large" else 100
    return [data[start : start + size] for start in range(0, len(data), size)]


@settings(max_examples=120, deadline=None)
@given(
    kind=KINDS,
    length=st.integers(10, 12_000),
    padding=st.sampled_from([0, 16]),
    part=st.floats(0.0, 1.0),
    how=st.sampled_from(["events", "events", "random", "large", "small"]),
)
def test_output(kind: str, length: int, padding: int, part: float, how: str) -> None:
    """Wherever a stream ends and however it was split, what passed is estimated within the stated bounds."""
    text, (least, most) = TEXTS[kind]
    events = events_of((text * 3)[:length], padding)
    passed = events[: int(len(events) * part)]
    observer = observer_for(status=200, media_type="text/event-stream")
    for read in split(passed, how):
        observer.feed(read)
    texts = deltas_of(passed)
    exact = tokens.usage({}, texts)["output_tokens"]
    found = observer.output_tokens()
    slack = FEW_TOKENS + 0.1 * exact
    assert least * exact - slack <= found <= most * exact + slack
    assert bool(found) == bool(texts)


def test_output_of_items() -> None:
    """Output without deltas is estimated from its items: encrypted reasoning, and calls of functions."""
    meter = OutputMeter()
    reasoning = {"type": "reasoning", "encrypted_content": "g" * 3_000, "summary": []}
    call = {"type": "function_call", "name": "f", "arguments": "x" * 600}
    for item in (reasoning, call):
        meter.feed(as_sse({"type": "response.output_item.added", "item": item}))
        meter.feed(as_sse({"type": "response.output_item.done", "item": item}))
    assert 1_030 <= meter.tokens() <= 1_300
    # With its deltas, an item counts once.
    for _ in range(300):
        meter.feed(as_sse({"type": "response.function_call_arguments.delta", "delta": "xx"}))
    assert 1_200 <= meter.tokens() <= 1_450


@pytest.mark.parametrize("name", ["content", "refusal", "text"])
def test_output_of_chat(name: str) -> None:
    """Chunks of chat completions and of legacy completions are estimated, too."""
    observer = observer_for(status=200, media_type="text/event-stream", family="chat")
    for _ in range(50):
        choice = {"index": 0, "delta": {name: " word"}, "finish_reason": None}
        observer.feed(f"data: {json.dumps({'id': 'c', 'choices': [choice]})}\n\n".encode())
    assert 50 <= observer.output_tokens() <= 100


def test_body_without_usage() -> None:
    """A JSON body is estimated from its output alone; one that cannot be read, from its size."""
    body = {"instructions": PROSE, "output": [message("word " * 300)], "usage": None}
    text = json.dumps(body).encode()
    observer = observer_for(status=200, media_type="application/json")
    observer.feed(text)
    assert 300 <= observer.output_tokens() <= 700
    cut = observer_for(status=200, media_type="application/json")
    cut.feed(text[:-10])
    assert cut.output_tokens() == -(-(len(text) - 10) // 3)
    overflowing = JsonObserver(limit=100)
    overflowing.feed(b"x" * 300_000)
    assert overflowing.output_tokens() == 100_000
    image = estimate.tokens_in_body({"output": [{"result": "A" * 1_000_000}]}, 10**6)
    assert IMAGE_TOKENS <= image <= IMAGE_TOKENS + 100


@pytest.mark.parametrize("media_type", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("coding", ["br", "gzip, br", "gzip"])
def test_unreadable_coding(media_type: str, coding: str) -> None:
    """An answer in a coding that cannot be read has a token for each byte; media have none."""
    observer = observer_for(status=200, media_type=media_type, content_encoding=coding)
    for _ in range(3):
        observer.feed(b"not a coding")
    assert observer.output_tokens() == 36
    audio = observer_for(status=200, media_type="audio/mpeg", content_encoding=coding, family="speech")
    audio.feed(b"not text")
    assert audio.output_tokens() == 0


def test_usage_has_bounds() -> None:
    """No estimate exceeds what any model can read and write; the time counts if less than that passed."""
    assert estimate.usage(10, 20, 0.0) == Usage(10, 0, 20)
    assert estimate.usage(10, 20, 2.0) == Usage(10, 0, 100)
    assert estimate.usage(10**9, 10**9, 10.0**9) == Usage(1_050_000, 0, 128_000)


def test_memory_is_bounded() -> None:
    """However long a stream and however it is split, little of it is kept."""
    meter = OutputMeter()
    for size in (65536, 300, 1):
        for _ in range(3000):
            meter.feed(b"x" * size)
    kept = [sample if isinstance(sample, bytes) else sample.octets for sample in meter._samples]
    assert 64 <= len(kept) <= 128
    assert sum(map(len, kept)) <= 129 * 1024
