"""The text of a configuration file: comments, commas, duplicates, and the location of syntax errors."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.config.document import parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="#\"\\/*' \na", max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(['# it\'s a "comment" {', "// one # two", "/* # \n */"]))
def test_parse_ignores_comments(value: object, comment: str) -> None:
    """Comments of all three kinds change nothing, whatever the strings contain."""
    text = json.dumps(value, indent=1)
    with_comments = f"{comment}\n" + text.replace("\n", f" {comment}\n") + f" {comment}\n"
    assert parse(with_comments) == (value, []) == parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param('{"a": "#b", # c\n}', {"a": "#b"}, id="hash-in-string"),
        pytest.param("{'a': '#b', b: 1}#", {"a": "#b", "b": 1}, id="json5-strings"),
        pytest.param('{"a": "\\"#b"}', {"a": '"#b'}, id="escaped-quote"),
        pytest.param('{"a": 1, // "\n"b": 2}', {"a": 1, "b": 2}, id="quote-in-comment"),
        pytest.param('[1, /* " # */ 2,]', [1, 2], id="block-comment"),
        pytest.param('\ufeff{"a": 1.10}', {"a": Decimal("1.10")}, id="byte-order-mark"),
    ],
)
def test_parse_accepts_sing_box_syntax(text: str, value: object) -> None:
    """sing-box's comments and commas are accepted, and a hash within a string is part of it."""
    assert parse(text) == (value, [])


def test_parse_counts_lines_past_hash_comments() -> None:
    """Comments do not shift locations: the error is where the reader sees it."""
    _, (problem,) = parse('{\n  "a": 1, # one\n  # two\n  "b" 2\n}')
    assert problem.where == "line 4, column 7"


def test_parse_reports_every_duplicate() -> None:
    """Duplicates are reported with their paths, at any depth, and the last one's value is used."""
    value, problems = parse('{"a": 1, "a": 2, "b": [{"c": 1, "c": 2, "c": 3}]}')
    assert value == {"a": 2, "b": [{"c": 3}]}
    assert [problem.where for problem in problems] == ["$.a", "$.b[0].c", "$.b[0].c"]


def test_parse_survives_deep_nesting() -> None:
    """Excessive nesting is reported as a problem and does not crash."""
    value, (problem,) = parse("[" * 100_000)
    assert value is None
    assert "nested too deeply" in str(problem)
