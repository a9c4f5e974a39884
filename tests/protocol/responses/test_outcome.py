"""JSON of upstream and of clients is read as the standard library reads it, if faster."""

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
def test_any_value_is_read(value: object, is_ascii: bool) -> None:
    """What json writes is read back."""
    assert parse_json(json.dumps(value, ensure_ascii=is_ascii)) == value


@given(text=st.text(alphabet='{}[]",:\\ud8f0123456789eE+-.tnrulfasNI \n\t\x00\x1f'))
def test_what_is_no_json_is_nothing(text: str) -> None:
    """Whatever else comes is read as json reads it, or is nothing."""
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
    """Names that come twice, half a surrogate, bad UTF-8, large numbers, deep nesting and what is no JSON."""
    assert parse_json(data) == value
