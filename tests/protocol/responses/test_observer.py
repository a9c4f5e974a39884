"""Response observers: the end of a turn, its usage, and the octets that must wait for its record."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.demo.sse import EventDecoder
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.observer import JsonObserver, Observer, observer_for
from ocm_wsgi.protocol.responses.outcome import event_outcome
from ocm_wsgi.protocol.responses.sse_observer import SseObserver
from ocm_wsgi.protocol.responses.turn import Outcome, Usage
from ocm_wsgi.protocol.responses.usage import usage_of

USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 7},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "model": "gpt-5.4",
    "service_tier": "default",
    "usage": USAGE,
}
COMPLETED = Outcome("completed", Usage(100, 60, 20, 5, 7), "gpt-5.4", "default")
CHAT_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CHUNK = {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-5", "service_tier": "flex"}


def event(data: object, *, separators: tuple[str, str] = (",", ":"), end: str = "\n\n", name: str = "") -> bytes:
    line = f"event: {name}{end[: len(end) // 2]}" if name else ""
    return f"{line}data: {json.dumps(data, separators=separators)}{end}".encode()


def delta(text: str = "hello", **more: object) -> bytes:
    return event({"type": "response.output_text.delta", "delta": text, **more}, name="response.output_text.delta")


TERMINAL = {"type": "response.completed", "response": RESPONSE}
TRAPS = [
    delta("response.completed"),
    delta('{"type":"response.completed","response":{"usage":{"input_tokens":9,"output_tokens":9}}}'),
    delta('"type": "response.completed"'),
    delta('ends with a quote "response.completed'),
    delta("x", type2="response.completed", nested={"type": "response.completed"}),
    event({"type": "response.created", "response": RESPONSE | {"status": "in_progress", "usage": None}}),
    event({"nested": {"type": "response.completed", "response": RESPONSE}, "type": "other"}),
    event([TERMINAL]),
    event("response.completed"),
    b'data: {"type":"response.completed"\n\n',
    b'event: response.completed\ndata: {"type":"response.in_progress"}\n\n',
    b': data: {"type":"response.completed"}\n\n',
    b'dato: {"type":"response.completed"}\n\n',
    b"data: [DONE]\n\n",
    b": keepalive\n\n",
    b"\n",
]


def run(observer: Observer, pieces: Iterable[bytes]) -> tuple[Outcome, int | None]:
    """Return the outcome, and how many octets could be sent by then; ``None`` if it came only at the end."""
    passed = 0
    for piece in pieces:
        sendable, outcome = observer.feed(piece)
        if outcome is not None:
            return outcome, passed + sendable
        assert sendable == len(piece)
        passed += sendable
    return observer.finish(), None


def bytewise(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


TERMINAL_EVENTS = [
    pytest.param(event(TERMINAL), COMPLETED, id="plain"),
    pytest.param(event(TERMINAL, separators=(" , ", " : ")), COMPLETED, id="spaces"),
    pytest.param(
        event({"response": RESPONSE, "sequence_number": 3, "type": "response.completed"}), COMPLETED, id="type-last"
    ),
    pytest.param(event(TERMINAL, end="\r\n\r\n", name="x"), COMPLETED, id="crlf"),
    pytest.param(event(TERMINAL, end="\r\r", name="x"), COMPLETED, id="cr"),
    pytest.param(event(TERMINAL, end="\n\r\n"), COMPLETED, id="mixed"),
    pytest.param(event(TERMINAL, name="response.output_text.delta"), COMPLETED, id="wrong-event-name"),
    pytest.param(event(TERMINAL).replace(b"data: ", b"data:"), COMPLETED, id="no-space"),
    pytest.param(event(TERMINAL).replace(b'"response":', b'\ndata: "response":'), COMPLETED, id="two-data-lines"),
    pytest.param(b": note\nid: 7\n" + event(TERMINAL), COMPLETED, id="comment-and-id"),
    pytest.param(
        event({"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}}),
        Outcome("incomplete", error_code="max_output_tokens"),
        id="incomplete",
    ),
    pytest.param(
        event({"type": "response.failed", "response": {"id": "r", "error": {"code": "slow_down"}, "usage": None}}),
        Outcome("failed", error_code="slow_down"),
        id="failed",
    ),
    pytest.param(event({"type": "response.completed"}), Outcome("completed"), id="no-response"),
    pytest.param(
        event({"type": "response.completed", "response": {"usage": {"input_tokens": 0, "output_tokens": 0}}}),
        Outcome("completed", Usage(0, 0, 0)),
        id="usage-zero",
    ),
]


@pytest.mark.parametrize(("terminal", "expected"), TERMINAL_EVENTS)
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"".join(TRAPS)], ids=["alone", "bom", "after-traps"])
def test_sse_outcome_in_one_piece(terminal: bytes, expected: Outcome, prefix: bytes) -> None:
    """Everything before the terminal event may be sent; the event and what follows must wait."""
    stream = prefix + terminal + b"data: [DONE]\n\n"
    outcome, passed = run(SseObserver(), [stream])
    assert outcome == expected
    start = 0 if prefix == b"\xef\xbb\xbf" else len(prefix)
    assert passed is not None
    assert start - 1 <= passed <= start  # a lone line feed before the event may count as its first line


@pytest.mark.parametrize(("terminal", "expected"), TERMINAL_EVENTS)
def test_sse_outcome_byte_by_byte(terminal: bytes, expected: Outcome) -> None:
    """Octet by octet, exactly the one that completes the event is held back."""
    stream = b"".join(TRAPS) + terminal
    outcome, passed = run(SseObserver(), bytewise(stream))
    assert outcome == expected
    assert passed is not None
    assert stream[: passed + 1].endswith(terminal.rstrip(b"\n")) or passed + 1 == len(stream)


def test_sse_outcome_comes_once() -> None:
    """After the outcome everything may be sent, and ``finish`` repeats it."""
    observer = SseObserver()
    assert observer.feed(event(TERMINAL)) == (0, COMPLETED)
    assert observer.feed(event(TERMINAL)) == (len(event(TERMINAL)), None)
    assert observer.finish(complete=False) == COMPLETED


def test_sse_holds_back_only_the_completing_read() -> None:
    """Earlier pieces of a terminal event are sent as they arrive."""
    observer = SseObserver()
    stream = delta() + event(TERMINAL)
    cut = len(stream) - 10
    assert observer.feed(stream[:cut]) == (cut, None)
    assert observer.feed(stream[cut:] + b"data: [DONE]\n\n") == (0, COMPLETED)


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("split", [lambda stream: [stream], bytewise], ids=["whole", "bytewise"])
def test_sse_unrelated_events_end_nothing(trap: bytes, split: Callable[[bytes], Iterable[bytes]]) -> None:
    """An event that only mentions terminal events is not terminal, and the stream counts as cut."""
    assert run(SseObserver(), split(trap * 3)) == (Outcome("cut"), None)


def test_finish_reports_usage_of_an_incomplete_terminal_event() -> None:
    """A terminal event without its blank line was cut, but its usage is known."""
    assert run(SseObserver(), [delta() + event(TERMINAL)[:-1]]) == (replace(COMPLETED, status="cut"), None)
    assert run(SseObserver(), [delta() + event(TERMINAL)[:-9]]) == (Outcome("cut"), None)


def test_finish_reports_an_error_event() -> None:
    """An ``error`` event does not end a turn, but explains a stream that stops after it."""
    error = event({"type": "error", "code": "server_error", "message": "x", "sequence_number": 2})
    assert run(SseObserver(), [delta(), error]) == (Outcome("error", error_code="server_error"), None)
    assert run(SseObserver(), bytewise(error + event(TERMINAL)))[0] == COMPLETED


CHAT_STREAMS = [
    pytest.param(
        [event(CHUNK | {"choices": [{}], "usage": None}), event(CHUNK | {"choices": [], "usage": CHAT_USAGE})],
        Outcome("completed", Usage(10, 4, 3, 2), "gpt-5", "flex"),
        id="include-usage",
    ),
    pytest.param([event(CHUNK | {"choices": [{}]}), b"data: [DONE]\n\n"], Outcome("completed"), id="without-usage"),
    pytest.param(
        [event(CHUNK | {"choices": [{}], "usage": CHAT_USAGE}), b"data:[DONE]\n\n"],
        Outcome("completed", Usage(10, 4, 3, 2), "gpt-5", "flex"),
        id="usage-with-choices",
    ),
    pytest.param([event({"error": {"code": "x"}})], Outcome("error", error_code="x"), id="error"),
]


@pytest.mark.parametrize(("events", "expected"), CHAT_STREAMS)
@pytest.mark.parametrize("split", [lambda stream: [stream], bytewise], ids=["whole", "bytewise"])
def test_chat_outcome(events: list[bytes], expected: Outcome, split: Callable[[bytes], Iterable[bytes]]) -> None:
    """A chat stream ends with its usage chunk, an error or ``[DONE]``, not with text that mentions them."""
    text = 'data: [DONE] "usage": {"prompt_tokens": 1} {"error": 1}'
    talk = event(CHUNK | {"choices": [{"delta": {"content": text}}], "usage": None})
    outcome, passed = run(SseObserver("chat"), split(talk + b"".join(events)))
    assert outcome == expected
    assert passed is not None
    assert passed >= len(talk)


def test_chat_cut_keeps_usage() -> None:
    """A chat stream that stops before its end was cut; its usage so far is kept."""
    stream = event(CHUNK | {"choices": [{}], "usage": CHAT_USAGE})
    outcome, passed = run(SseObserver("chat"), [stream])
    assert (outcome.status, outcome.usage, passed) == ("cut", Usage(10, 4, 3, 2), None)


def test_sse_large_other_event_is_not_buffered() -> None:
    """An event that names another type is skipped without buffering any of it."""
    observer = SseObserver()
    observer.feed(b'data: {"type":"response.output_item.done","item":"')
    for _ in range(100):
        observer.feed(b"x" * 65536)
    assert observer._open is not None
    assert len(observer._open.buffer.octets) == 0
    assert observer.feed(b'"}\n\n' + event(TERMINAL)) == (4, COMPLETED)


def test_sse_large_events_before_the_terminal_one() -> None:
    """Large events of other types in one read are skipped, and the terminal one after them is found."""
    large = [delta("z" * size) for size in (3000, 5000, 100, 9000)]
    stream = b"".join(large)
    assert run(SseObserver(), [stream + event(TERMINAL)]) == (COMPLETED, len(stream))
    assert run(SseObserver(), [stream + large[1][:4000], large[1][4000:] + event(TERMINAL)])[0] == COMPLETED


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
def test_sse_large_terminal_event_in_small_reads(size: int) -> None:
    """A terminal event of megabytes is read completely, in any split."""
    big = event({"type": "response.completed", "response": RESPONSE | {"output": "y" * size}})
    outcome, _ = run(SseObserver(), (big[at : at + 65536] for at in range(0, len(big), 65536)))
    assert outcome == COMPLETED


def test_sse_terminal_event_beyond_the_limit_is_read_from_its_tail() -> None:
    """Beyond the limit, the type at the beginning and the usage in the tail are read in bounded memory."""
    big = event({"type": "response.completed", "response": {"output": "y" * 3_000_000, **RESPONSE}})
    observer = SseObserver(limit=2000)
    outcome, _ = run(observer, (big[at : at + 65536] for at in range(0, len(big), 65536)))
    assert outcome == Outcome("completed", COMPLETED.usage)


def test_sse_unnamed_event_beyond_the_limit_is_dropped() -> None:
    """An event too large to buffer that does not name its type first is skipped, and the next one is found."""
    big = event({"x": "y" * 5000, "type": "response.completed"})
    assert run(SseObserver(limit=2000), itertools.chain(bytewise(big), [event(TERMINAL)])) == (COMPLETED, len(big))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["response.completed", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "response", "usage", "delta", "code"]), inner, max_size=3)
    ),
    max_leaves=8,
)
usages = st.none() | st.builds(
    lambda counts: dict(zip(("input_tokens", "output_tokens"), counts, strict=True)),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
terminals = st.builds(
    lambda kind, usage, order: dict(
        order([("type", f"response.{kind}"), ("response", {"id": "r", "usage": usage}), ("n", 1)])
    ),
    st.sampled_from(["completed", "incomplete", "failed"]),
    usages,
    st.sampled_from([list, reversed, sorted]),
)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn, events: st.SearchStrategy[Any]) -> bytes:
    """Draw a stream of events in any valid syntax: line ends, comments, names, spaces, several data lines."""
    end = draw(line_ends)
    stream = draw(st.sampled_from(["", "\ufeff"]))
    for data in draw(st.lists(events, max_size=4)):
        stream += draw(st.sampled_from(["", f": note{end}", f"event: response.completed{end}", end]))
        separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (f",{end}data: ", ":")]))
        stream += f"data: {json.dumps(data, separators=separators, ensure_ascii=draw(st.booleans()))}{end}{end}"
    return stream.encode("utf-8", "replace")


def split_at(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def decoded_outcome(stream: bytes) -> Outcome | None:
    """Return the first outcome that a client which decodes and parses every event would see."""
    outcomes = (event_outcome(parse(item.data)) for item in EventDecoder().feed(stream))
    return next((outcome for outcome in outcomes if outcome is not None and outcome.status != "error"), None)


def parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@given(streams(json_values | terminals), st.lists(st.integers(0, 10**4), max_size=6))
def test_sse_any_split_of_any_stream(stream: bytes, cuts: list[int]) -> None:
    """The observer sees what a full decoder sees, and no end of a turn is sent before that."""
    expected = decoded_outcome(stream)
    for pieces in ([stream], split_at(stream, cuts), bytewise(stream)):
        outcome, passed = run(SseObserver(), pieces)
        if expected is None:
            assert passed is None
            assert outcome.status in ("cut", "error")
        else:
            assert outcome == expected
            assert passed is not None
            assert decoded_outcome(stream[:passed]) is None


@given(streams(json_values), st.lists(st.integers(0, 10**4), max_size=6))
def test_chat_any_split_of_any_stream(noise: bytes, cuts: list[int]) -> None:
    """A chat stream has the same outcome in any split, and [DONE] is never sent before it."""
    stream = noise + event(CHUNK | {"choices": [{"delta": {"content": "[DONE]"}}]}) + b"data: [DONE]\n\n"
    outcomes = {run(SseObserver("chat"), pieces)[0] for pieces in ([stream], split_at(stream, cuts), bytewise(stream))}
    assert len(outcomes) == 1


JSON_BODIES = [
    pytest.param(200, RESPONSE, COMPLETED, id="response"),
    pytest.param(200, RESPONSE | {"status": "incomplete"}, replace(COMPLETED, status="incomplete"), id="incomplete"),
    pytest.param(
        200,
        RESPONSE | {"status": "failed", "error": {"code": "x"}},
        replace(COMPLETED, status="failed", error_code="x"),
        id="failed",
    ),
    pytest.param(
        200,
        {"object": "chat.completion", "model": "m", "usage": CHAT_USAGE},
        Outcome("completed", Usage(10, 4, 3, 2), "m"),
        id="chat",
    ),
    pytest.param(
        200,
        {"object": "response.compaction", "output": [], "usage": USAGE},
        Outcome("completed", COMPLETED.usage),
        id="compaction",
    ),
    pytest.param(
        200,
        {"data": [{"embedding": []}], "usage": {"prompt_tokens": 5, "total_tokens": 5}},
        Outcome("completed", Usage(5, 0, 0)),
        id="embeddings",
    ),
    pytest.param(200, {"models": []}, Outcome("completed"), id="models"),
    pytest.param(200, [1], Outcome("completed"), id="array"),
    pytest.param(
        429,
        {"error": {"type": "usage_limit_reached", "resets_at": 1}},
        Outcome("error", error_code="usage_limit_reached"),
        id="429",
    ),
    pytest.param(
        400, {"error": {"type": "a", "code": "b", "message": "c"}}, Outcome("error", error_code="b"), id="400"
    ),
    pytest.param(400, {"error": "invalid_grant"}, Outcome("error", error_code="invalid_grant"), id="text-error"),
    pytest.param(400, {"detail": "Unsupported"}, Outcome("error"), id="other-shape"),
    pytest.param(500, [1], Outcome("error"), id="error-array"),
]


@pytest.mark.parametrize(("status", "body", "expected"), JSON_BODIES)
def test_json_outcome(status: int, body: object, expected: Outcome) -> None:
    """A JSON body has its outcome at its end, in one piece and octet by octet."""
    raw = json.dumps(body).encode()
    for pieces in ([raw], bytewise(raw)):
        assert run(JsonObserver(status=status), pieces) == (expected, None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff", b"[" * 100_000])
def test_json_observer_with_invalid_json(body: bytes) -> None:
    """A body that is not JSON has no usage, and an error status stays an error."""
    assert run(JsonObserver(), [body])[0] == Outcome("completed")
    assert run(JsonObserver(status=502), [body])[0] == Outcome("error")


def test_json_observer_cut() -> None:
    """A body that broke off was cut; its contents until then are used."""
    observer = JsonObserver()
    observer.feed(b'{"usage"')
    assert observer.finish(complete=False) == Outcome("cut")
    complete = JsonObserver()
    complete.feed(json.dumps(RESPONSE).encode())
    assert complete.finish(complete=False) == replace(COMPLETED, status="cut")


def test_json_observer_beyond_the_limit_reads_the_tail() -> None:
    """For a body too large to buffer, the usage in its tail is read."""
    observer = JsonObserver(limit=1000)
    for piece in (b'{"output":"', *[b"x" * 65536] * 20, b'","usage":' + json.dumps(USAGE).encode() + b"}"):
        observer.feed(piece)
    assert observer.finish() == Outcome("completed", COMPLETED.usage)


def test_json_observer_reads_the_ends_of_a_body_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that would hold up the event loop is not parsed: model and usage are read from its ends."""
    body = {"object": "list", "model": "m", "data": [0.5] * 300_000, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    parsed: list[int] = []

    def parse(data: bytes) -> object:
        parsed.append(len(data))
        return json.loads(data)

    monkeypatch.setattr("ocm_wsgi.protocol.responses.observer.parse_json", parse)
    assert run(JsonObserver(family="embeddings"), [json.dumps(body).encode()])[0] == Outcome(
        "completed", Usage(7, 0, 0), "m"
    )
    image = {"data": [{"b64_json": "A" * 3_000_000}], "usage": {"input_tokens": 7, "output_tokens": 9}}
    usage = run(JsonObserver(family="images"), [json.dumps(image).encode()])[0].usage
    assert usage == Usage(7, 0, 9, image_output_tokens=9, items=1)
    assert [size > 3_000_000 for size in parsed] == [True]


def test_the_usage_in_the_ends_is_never_that_of_a_schema() -> None:
    """A schema that the client sent, and that the response repeats, cannot pass for a smaller usage."""
    schema = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    for members in ({"usage": USAGE, "text": schema}, {"tools": [schema], "usage": USAGE}):
        body = json.dumps(RESPONSE | {"output": [0] * 300_000} | members).encode()
        assert run(JsonObserver(), [body])[0].usage == COMPLETED.usage
        terminal = event({"type": "response.completed", "response": json.loads(body)})
        assert run(SseObserver(), [terminal[:9000], terminal[9000:-9], terminal[-9:]])[0].usage == COMPLETED.usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ({"total_tokens": 3}, None),
        ({"input_tokens": -1, "output_tokens": 0}, None),
        ({"input_tokens": 1.5, "output_tokens": 0}, None),
        ({"input_tokens": True, "output_tokens": 0}, None),
        ({"input_tokens": 2**63, "output_tokens": 0}, None),
        ({"input_tokens": 0, "output_tokens": 0, "input_tokens_details": None}, Usage(0, 0, 0)),
        ({"input_tokens": 3, "input_tokens_details": {"cached_tokens": None}}, Usage(3, 0, 0)),
    ],
)
def test_usage_absent_is_not_zero(usage: object, expected: Usage | None) -> None:
    """Usage that is absent, null, empty or malformed is ``None``; zero is zero."""
    assert usage_of(usage) == expected


def test_event_outcome() -> None:
    """A terminal event and an error have an outcome, with members in any order; other events have none."""
    assert event_outcome(TERMINAL) == COMPLETED
    error = {"type": "error", "status": 429, "error": {"type": "usage_limit_reached"}, "headers": {}}
    assert event_outcome(error) == Outcome("error", error_code="usage_limit_reached")
    assert event_outcome({"response": RESPONSE, "type": "response.completed"}) == COMPLETED
    for other in (None, [1], {"type": "response.created", "response": {"type": "error"}}, {"a": {"type": "error"}}):
        assert event_outcome(other) is None


def gzip_members(data: bytes) -> bytes:
    return gzip.compress(data[:50]) + gzip.compress(data[50:])


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


CODINGS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("GZIP", gzip_members, id="two-members"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", raw_deflate, id="raw-deflate"),
    pytest.param("zstd", zstandard.ZstdCompressor().compress, id="zstd"),
    pytest.param("identity", bytes, id="identity"),
]


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_encoded_stream_is_observed(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A decoded copy of an encoded stream is observed; the read that completes the terminal event waits."""
    raw = compress(b"".join(TRAPS) * 20 + event(TERMINAL))
    for pieces in ([raw], bytewise(raw), split_at(raw, [50, 99, 200])):
        observer = observer_for(status=200, media_type="text/event-stream", content_encoding=coding)
        outcome, passed = run(observer, pieces)
        assert outcome == COMPLETED
        assert passed is not None
        assert passed < len(raw)
        assert observer.feed(b"more") == (4, None)
        assert observer.finish() == COMPLETED


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_encoded_json_is_observed(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A decoded copy of an encoded JSON body is read."""
    observer = observer_for(status=200, media_type="application/json; charset=utf-8", content_encoding=coding)
    assert run(observer, bytewise(compress(json.dumps(RESPONSE).encode()))) == (COMPLETED, None)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "gzip, zstd"])
def test_undecodable_copy_means_no_usage(coding: str) -> None:
    """A body that cannot be decoded is still relayed, and its turn has no usage."""
    observer = observer_for(status=200, media_type="text/event-stream", content_encoding=coding)
    assert run(observer, [b"not", b" encoded" * 50, b"x"]) == (Outcome("completed"), None)
    assert observer.finish(complete=False) == Outcome("cut")
    refused = observer_for(status=403, media_type="application/json", content_encoding=coding)
    assert run(refused, [b"\x78\x9cbroken"]) == (Outcome("error"), None)


@pytest.mark.parametrize(("octets", "outcome"), [(512 << 10, COMPLETED), (64 << 20, Outcome("completed"))])
def test_decompression_bomb_is_not_observed(octets: int, outcome: Outcome) -> None:
    """A body that expands a thousandfold is observed up to a size that delays no other stream."""
    bomb = gzip.compress(b'data: {"type":"x"}' + b"\n" * octets + event(TERMINAL))
    observer = observer_for(status=200, media_type="text/event-stream", content_encoding="gzip")
    assert run(observer, [bomb])[0] == outcome


@pytest.mark.parametrize(
    ("status", "media_type", "family", "body", "expected"),
    [
        (200, "text/event-stream; charset=utf-8", "responses", event(TERMINAL), COMPLETED),
        (200, "", "responses", event(TERMINAL), COMPLETED),
        (200, "", "responses", b" \n" + json.dumps(RESPONSE).encode(), COMPLETED),
        (200, "", "completions", b"data: [DONE]\n\n", Outcome("completed")),
        (200, "text/event-stream", "completions", b"data: [DONE]\n\n", Outcome("completed")),
        (200, "TEXT/EVENT-STREAM", "chat", b"data: [DONE]\n\n", Outcome("completed")),
        (200, "text/event-stream", "responses", b"data: [DONE]\n\n", Outcome("cut")),
        (200, "application/json", "responses", json.dumps(RESPONSE).encode(), COMPLETED),
        (200, "application/problem+json", "other", json.dumps(RESPONSE).encode(), COMPLETED),
        (200, "audio/mpeg", "speech", event(TERMINAL), Outcome("completed")),
        (429, "text/event-stream", "responses", b'{"error":{"code":"x"}}', Outcome("error", error_code="x")),
        (502, "text/html", "responses", b"<html>", Outcome("error")),
    ],
)
def test_observer_for_chooses(status: int, media_type: str, family: Family, body: bytes, expected: Outcome) -> None:
    """Status, media type and the kind of endpoint determine the observer."""
    assert run(observer_for(status=status, media_type=media_type, family=family), [body])[0] == expected
