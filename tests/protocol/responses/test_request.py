"""The facts in a request's body, of every size and shape."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard

from ocm_wsgi.protocol.responses.request import RequestFacts, request_facts

BODY = {"model": "gpt-5.4", "input": [{"model": "inner"}], "service_tier": "priority", "stream": True}
FACTS = RequestFacts("gpt-5.4", "priority")
LARGE = 'text with "quotes", \\ and {brackets} \\" ' * 50_000


def blocks(body: bytes, size: int = 65536) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (BODY, FACTS),
        ({"model": "m", "stream": False}, RequestFacts("m")),
        ({"model": 3, "service_tier": None, "stream": "yes"}, RequestFacts()),
        ({"model": "line\nend"}, RequestFacts()),
        ({"model": "x" * 300}, RequestFacts()),
        ({}, RequestFacts()),
        ([BODY], RequestFacts()),
        ("model", RequestFacts()),
    ],
)
@pytest.mark.parametrize("padding", ["", LARGE], ids=["parsed", "scanned"])
def test_request_facts(body: Any, facts: RequestFacts, padding: str) -> None:
    """Model and tier are found in small and large bodies, even after megabytes of input."""
    if padding and isinstance(body, dict):
        body = {"input": [{"text": padding}, [], {}]} | body
    assert request_facts(blocks(json.dumps(body).encode())) == facts


@pytest.mark.parametrize("padding", ["", LARGE], ids=["parsed", "scanned"])
def test_request_facts_with_a_repeated_key(padding: str) -> None:
    """A model that is named twice is unknown, however its key is spelled and whatever lies between."""
    for second in ("model", "mod\\u0065l", "Model"):
        body = f'{{"model":"a","input":{json.dumps(padding)},{" " * 800}"{second}" : "b"}}'.encode()
        facts = request_facts(blocks(body))
        assert facts == RequestFacts(), second
        assert facts.unread == "its body is not one JSON object in UTF-8 that names each of its members once"
    body = f'{{"input":{json.dumps(padding)},"mod\\u0065l" : "b"}}'.encode()
    assert request_facts(blocks(body)).model == "b"


@pytest.mark.parametrize("coding", ["zstd", "gzip"])
@pytest.mark.parametrize("padding", ["", LARGE], ids=["parsed", "scanned"])
def test_request_facts_of_encoded_bodies(coding: str, padding: str) -> None:
    """Encoded bodies are decoded."""
    raw = json.dumps({"input": padding} | BODY).encode()
    body = zstandard.compress(raw) if coding == "zstd" else gzip.compress(raw, mtime=0)
    assert request_facts(blocks(body, 1000), coding) == FACTS


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"", ""),
        (b"{", ""),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
        (json.dumps(BODY).encode(), "gzip"),
        (json.dumps(BODY).encode(), "br"),
        (gzip.compress(json.dumps(BODY).encode(), mtime=0)[:-20], "gzip"),
    ],
)
def test_request_facts_of_unreadable_bodies(body: bytes, coding: str) -> None:
    """A body that cannot be read has no facts and raises no error."""
    assert request_facts(blocks(body), coding) == RequestFacts()


def test_request_facts_gives_up_on_a_body_made_of_brackets() -> None:
    """A body that would take too long to scan has no facts."""
    body = b'{"model":"m","x":' + b"[" * 1_500_000
    assert request_facts(blocks(body)) == RequestFacts()


def test_request_facts_gives_up_on_a_bomb() -> None:
    """A decompression bomb is not decoded to its end."""
    bomb = gzip.compress(b'{"model":"m","x":"' + b"x" * (130 << 20) + b'"}', 1)
    assert request_facts(blocks(bomb), "gzip") == RequestFacts()


@pytest.mark.parametrize(
    ("media_type", "is_json"),
    [
        ("", True),
        ("application/json", True),
        ("Application/JSON ; charset=UTF-8", True),
        ("application/vnd.api+json", True),
        ("application/json; charset=utf-16", False),
        ("application/json; charset=utf-8; charset=utf-7", False),
        ("application/json, text/plain", False),
        ("application/json; =", False),
        ("text/plain", False),
        ("application/octet-stream", False),
        ("application/sdp", False),
    ],
)
def test_request_facts_of_media_types(media_type: str, is_json: bool) -> None:
    """Only a body that says that it is JSON, or says nothing, is read as JSON."""
    facts = request_facts([json.dumps(BODY).encode()], "", media_type)
    assert (facts == FACTS) is is_json
    assert bool(facts.unread) is not is_json


BOUNDARY = "----7f3c1e"


def multipart(*parts: tuple[str, str]) -> bytes:
    """Return a form of parts, each of the parameters of its Content-Disposition and its content."""
    lines = "".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {parameters}\r\n\r\n{content}\r\n"
        for parameters, content in parts
    )
    return f"{lines}--{BOUNDARY}--\r\n".encode()


FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
AUDIO = ('name="file"; filename="a.wav"', "RIFF" + "x" * 200_000)


@pytest.mark.parametrize("size", [1, 65536])
@pytest.mark.parametrize(
    ("parts", "model"),
    [
        pytest.param([('name="model"', "gpt-4o-transcribe"), AUDIO], "gpt-4o-transcribe", id="first"),
        pytest.param([AUDIO, ('name="model"', "whisper-1")], "whisper-1", id="last"),
        pytest.param([AUDIO], None, id="none"),
        pytest.param([('name="model"', "a"), ('name="model"', "b")], None, id="twice"),
        pytest.param([('name="session"', '{"type":"realtime","model":"gpt-realtime"}')], "gpt-realtime", id="session"),
        pytest.param([('name="session"', '{"model":"a"}'), ('name="model"', "b")], None, id="session-differs"),
        pytest.param([('name="session"', '{"model":"a","model":"b"}')], None, id="session-ambiguous"),
        pytest.param([('name="model"', "gpt-5\u00e9")], None, id="not-ascii"),
    ],
)
def test_request_facts_of_multipart_forms(parts: list[tuple[str, str]], model: str | None, size: int) -> None:
    """The model of a form is in a part, before or after a file."""
    assert request_facts(blocks(multipart(*parts), size), "", FORM_TYPE) == RequestFacts(model)


def test_request_facts_of_urlencoded_forms() -> None:
    """The model of a small form is read; JSON that says that it is a form is not."""
    kind = "application/x-www-form-urlencoded"
    assert request_facts([b"stream=1&model=gpt%2D5"], "", kind).model == "gpt-5"
    for body in (b"model=a&model=b", json.dumps(BODY).encode(), b'{"model":"a","x":"=&model=b&y="}', b"x" * 300_000):
        assert request_facts(blocks(body), "", kind) == RequestFacts(), body[:40]


def test_request_facts_of_a_disguised_document() -> None:
    """JSON before the first part of a form is not taken for its content."""
    body = json.dumps({"model": "gpt-5"}).encode() + b"\r\n" + multipart(('name="model"', "o3-pro"))
    for media_type in (FORM_TYPE, "", "application/json"):
        assert request_facts([body], "", media_type) == RequestFacts()
