"""The facts in a request's body, of every size and shape."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.request import RequestFacts, _Scanner, facts_of, request_facts

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
def test_request_facts_last_member_counts(padding: str) -> None:
    """The last of repeated members counts, and keys may contain escapes."""
    body = f'{{"model":"a","input":{json.dumps(padding)},"mod\\u0065l" : "b"}}'.encode()
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


members = st.dictionaries(
    st.sampled_from(["model", "service_tier", "stream", "input", 'a"\\', "é"]),
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text('a"\\{}[]:,é', max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "{"]), inner, max_size=2),
        max_leaves=6,
    ),
)


@given(members, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_scanner_agrees_with_a_parser(body: dict[str, Any], indent: int | None, ascii_only: bool, size: int) -> None:
    """The scanner finds what a JSON parser finds, in any formatting and split."""
    scanner = _Scanner(("model", "service_tier"))
    for block in blocks(json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode(), size):
        scanner.feed(block)
    assert facts_of(scanner.members) == facts_of(body)
