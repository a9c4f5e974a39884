"""Parses the file: sing-box's JSON with comments and trailing commas. Reports duplicate keys; knows no key names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import json5

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.errors import ConfigProblem

# Strings and the comments that json5 supports are matched first, so that a "#" inside them starts no comment.
_HASH_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|//[^\n]*|/\*.*?\*/)|\#[^\n]*""", re.DOTALL)
_JSON5_MESSAGE = re.compile(r"<string>:(?P<line>\d+) (?P<problem>.*) at column (?P<column>\d+)", re.DOTALL)


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were given more than once."""

    def __init__(self, members: Iterable[tuple[str, Any]]) -> None:
        super().__init__()
        self.duplicates: list[str] = []
        for key, value in members:
            if key in self:
                self.duplicates.append(key)
            self[key] = value


def parse(text: str) -> tuple[Any, list[ConfigProblem]]:
    """Return the document's value and the problems found. Fractions become ``Decimal``, so that prices stay exact.

    The value is ``None`` if the text cannot be parsed at all.
    """
    try:
        value = _load(_without_hash_comments(text.removeprefix("\ufeff")))
    except (ValueError, RecursionError) as exc:
        return None, [_syntax_problem(exc)]
    duplicates = [
        ConfigProblem(json_path(path), "the same key twice", "each key once") for path in _duplicate_paths(value, ())
    ]
    return _plain(value), duplicates


def _load(text: str) -> Any:
    """Parse strict JSON with the standard library, as json5 takes 16 µs per byte: 1.5 s for a large sing-box file."""
    try:
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_Object)
    except ValueError:
        return json5.loads(text, parse_float=Decimal, object_pairs_hook=_Object)


def _without_hash_comments(text: str) -> str:
    """Blank out ``#`` comments, which sing-box supports and json5 does not. Line and column numbers are preserved."""
    return _HASH_COMMENT.sub(lambda match: match[1] or " " * len(match[0]), text)


def _syntax_problem(exc: ValueError | RecursionError) -> ConfigProblem:
    expected = "JSON (comments and trailing commas are allowed)"
    if isinstance(exc, RecursionError):
        return ConfigProblem("$", "objects nested too deeply", expected)
    if match := _JSON5_MESSAGE.fullmatch(str(exc)):
        problem = match["problem"][:1].lower() + match["problem"][1:]
        return ConfigProblem(f"line {match['line']}, column {match['column']}", problem, expected)
    return ConfigProblem("$", "an empty file" if "Empty" in str(exc) else "text that is not JSON", expected)


def _duplicate_paths(value: Any, path: JsonPath) -> Iterator[JsonPath]:
    if isinstance(value, _Object):
        for key in value.duplicates:
            yield (*path, key)
    for step, child in _children(value):
        yield from _duplicate_paths(child, (*path, step))


def _children(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_joined_surrogates(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return _joined_surrogates(value) if isinstance(value, str) else value


def _joined_surrogates(text: str) -> str:
    r"""Join surrogate pairs written as ``"\ud83d\ude00"``, which json5 leaves as two characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
