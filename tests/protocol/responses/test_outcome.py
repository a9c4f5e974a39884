"""JSON from upstream and clients is parsed as by the standard library, only faster."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.outcome import parse_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=_VALUES, is_ascii=st.booleans())
def test_parse_json_round_trip(value: object, is_ascii: bool) -> None:
    """Everything that json writes can be parsed."""
    assert parse_json(json.dumps(value, ensure_ascii=is_ascii)) == value


@given(text=st.text(alphabet='{}[]",:\\ud8f0123456789eE+-.tnrulfasNI \n\t\x00\x1f'))
def test_parse_json_agrees_with_json(text: str) -> None:
    """Other text is parsed as by json, or the result is ``None``."""
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    assert repr(parse_json(text)) == repr(expected)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\ud800"', "\ud800"),
        (b'"\xff"', "\ufffd"),
        (bytearray(b"[1e400, 12345678901234567890123]"), [float("inf"), 12345678901234567890123]),
        (b"[" * 500 + b"]" * 500, json.loads("[" * 500 + "]" * 500)),
        (b"[" * 100_000 + b"]" * 100_000, None),
        (b"\xef\xbb\xbf{}", None),
        (b"{} {}", None),
        (b"", None),
    ],
)
def test_parse_json(data: bytes | bytearray, value: object) -> None:
    """Repeated names, lone surrogates, invalid UTF-8, large numbers, deep nesting and invalid JSON."""
    assert parse_json(data) == value
