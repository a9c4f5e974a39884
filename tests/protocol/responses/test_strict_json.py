"""Reading JSON strictly, against a strict reference parser."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.strict_json import DocumentShortener, NotStrictJson, strict_object

_LONG = "x" * 200


def reference(text: bytes) -> dict[str, Any] | None:
    """Return an object of JSON as RFC 8259 has it, without repeated keys at its top, or ``None``."""

    class Members(list[tuple[str, Any]]):
        pass

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        members = json.loads(text.decode("utf-8", "strict"), object_pairs_hook=Members, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, Members) or len({key for key, _ in members}) != len(members):
        return None
    return dict(members)


def shortened(text: bytes, size: int = 65536) -> dict[str, Any] | None:
    """Return the object that is left of a document, fed in pieces of a size."""
    shortener = DocumentShortener()
    try:
        for start in range(0, len(text), size):
            shortener.feed(text[start : start + size])
        return shortener.finish()
    except NotStrictJson:
        return None


def strictly(text: bytes) -> dict[str, Any] | None:
    try:
        return strict_object(text)
    except NotStrictJson:
        return None


def labels(members: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the members that requests are decided by, or ``None``."""
    if members is None:
        return None
    read = {key: label(members.get(key)) for key in ("model", "service_tier")}
    return {key: value for key, value in read.items() if value and len(value) < len(_LONG)}


_texts = st.text('a"\\{}[]:,/é\u2028\ud83d\n\t ', max_size=8) | st.just(_LONG) | st.just(_LONG + '\\"' + _LONG)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "{", _LONG]), inner),
    max_leaves=6,
)
_keys = st.sampled_from(["model", "service_tier", "stream", "input", 'a"\\', "é", _LONG])
_spellings = st.sampled_from(["model", "mod\\u0065l", "\\u006dodel", "service_tier", "service\\u005Ftier", "x", _LONG])
_gaps = st.sampled_from(["", " ", "\r\n\t", " " * 300])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draw an object whose keys are spelled in several ways, and may be repeated."""
    members = draw(st.lists(st.tuples(_spellings, _values), max_size=5))
    gap = draw(_gaps)
    ascii_only = draw(st.booleans())
    # A repeated long key is not noticed in a shortened document; none that is read is as long.
    members = [(key + str(index) if key == _LONG else key, value) for index, (key, value) in enumerate(members)]
    written = (f'{gap}"{key}"{gap}:{json.dumps(value, ensure_ascii=ascii_only)}' for key, value in members)
    return f"{gap}{{{f'{gap},'.join(written)}{gap}}}{gap}"


_wrapped = st.sampled_from(
    [
        ("", ""),
        ("\ufeff", ""),
        ("", "{}"),
        ("", "x"),
        ("/**/", ""),
        ("--b\r\n", ""),
        ("", "\0"),
        ("[", "]"),
        ("\x0b", ""),
        ("", ","),
    ]
)
_encodings = st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-16-le", "utf-32-be", "latin-1", "utf-7"])
_sizes = st.sampled_from([1, 2, 7, 40, 65536])


@settings(max_examples=150)
@given(documents(), _wrapped, _encodings, _sizes)
@example('{"model":"a"' + " " * 800 + ',"model":"b"}', ("", ""), "utf-8", 65536)
@example('{"model":"a"}', ("", ""), "utf-16", 65536)
def test_documents_are_read_as_the_reference_reads_them(
    document: str, wrapped: tuple[str, str], encoding: str, size: int
) -> None:
    """What is read of a document, whole or shortened, is what a strict parser reads, and nothing if it refuses."""
    text = (wrapped[0] + document + wrapped[1]).encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    expected = labels(reference(text))
    assert labels(strictly(text)) == expected
    assert labels(shortened(text, size)) == expected


@settings(max_examples=150)
@given(documents(), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3), _sizes)
def test_damaged_documents_are_read_as_the_reference_reads_them(
    document: str, at: int, inserted: bytes, removed: int, size: int
) -> None:
    """The same holds for documents in which octets were replaced, inserted or removed."""
    text = document.encode("utf-8", "surrogatepass")
    text = text[:at] + inserted + text[at + removed :]
    expected = labels(reference(text))
    assert labels(strictly(text)) == expected
    assert labels(shortened(text, size)) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"model"',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1/**/}',
        b'{"a":"\x01"}',
        b'{"a":"\t' + b"x" * 200 + b'"}',
        b'{"a":"\\x"}',
        b'{"a":"' + b"x" * 200 + b'\\x"}',
        b'{"a":"\\u12G4"}',
        b'{"a":\\"b"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80' + b"x" * 200 + b'"}',
        b'{"a":"\xc3',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}\x00',
        b'{"model":"a","model":"a"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_refused_documents(text: bytes) -> None:
    """A document that some parser reads differently is refused, whole, shortened and octet by octet."""
    assert strictly(text) is None
    assert shortened(text) is None
    assert len(text) > 1000 or shortened(text, 1) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"m","a":"\\ud83d"}',
        b'{"model":"m","a":"\\ud83d' + b"x" * 200 + b'"}',
        b'{"model":"m","a":{"b":1,"b":2}}',
        b'{"model":"m","a":' + b"1" * 5000 + b"}",
    ],
    ids=["surrogate", "long-surrogate", "inner-repetition", "long-number"],
)
def test_accepted_documents(text: bytes) -> None:
    """A document that is valid is read, though it is unusual."""
    assert labels(strictly(text)) == labels(shortened(text)) == {"model": "m"}


def test_shortened_strings_equal_no_other() -> None:
    """Long keys that differ are no repetition, and a long name is no label."""
    text = json.dumps({"x" * 300: 1, "y" * 300: 2, "model": "z" * 300}).encode()
    members = shortened(text)
    assert members is not None
    assert len(members) == 3
    assert not members["model"].isprintable()


@pytest.mark.parametrize(
    "unit",
    [b'"a",', b"[],", b'"' + b"a" * 129 + b'",', b'"' + b"\\n" * 60 + b'",'],
    ids=["strings", "arrays", "long", "escapes"],
)
def test_intricate_documents_are_given_up(unit: bytes) -> None:
    """A document of many small pieces is given up: what is parsed at once is bounded."""
    piece = unit * (65536 // len(unit))
    assert shortened(b'{"model":"m","a":[' + piece * 2000) is None
    assert strictly(b'{"model":"m","a":[' + piece * 40 + b"0]}") is None
