"""Buffers a JSON document up to a size, and reads the ends of one that is too large to parse. Pure; no I/O.

Answers are observed in the event loop, where a document that takes long to parse would delay all other streams. One
that is large in octets alone, such as an image, does not take long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

#: A JSON body, or an event that may be terminal, is buffered up to this size. Of a larger one only the ends are.
BUFFER_LIMIT_BYTES = 16 * 1024 * 1024

# A document of more octets is parsed only if it has few commas, and so few values: each takes some 50 ns.
_SMALL_BYTES = 512 * 1024
_MOST_COMMAS = 20_000

_HEAD_BYTES = 64 * 1024
_TAIL_BYTES = 256 * 1024

_USAGE_KEYS = {name: re.compile(rf'"{name}"\s*:\s*(?=\{{)') for name in ("usage", "tool_usage")}


class BoundedBuffer:
    """Buffers octets up to a limit, and beyond it only the first and the last ones.

    :param limit: in octets.
    :ivar octets: all of them, or the last ones.
    :ivar head: the first octets, if ``octets`` does not have them.
    :ivar overflowed: whether ``octets`` is only the tail.
    """

    def __init__(self, limit: int) -> None:
        self.octets = bytearray()
        self.head = b""
        self.overflowed = False
        self._limit = limit

    def append(self, data: bytes) -> None:
        self.octets += data
        if len(self.octets) > (2 * _TAIL_BYTES if self.overflowed else self._limit):
            if not self.overflowed:
                self.head = bytes(self.octets[:_HEAD_BYTES])
            self.overflowed = True
            del self.octets[:-_TAIL_BYTES]

    @property
    def is_quick_to_parse(self) -> bool:
        """Whether the document is complete and takes some milliseconds to parse, at most."""
        if self.overflowed:
            return False
        return len(self.octets) <= _SMALL_BYTES or self.octets.count(b",") <= _MOST_COMMAS

    def first_octets(self) -> bytes:
        """Return the beginning of the document."""
        return self.head or bytes(self.octets[:_HEAD_BYTES])

    def with_usage(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return the members of the response in the beginning of the document, with the usage near its end.

        Of several members of one name, e.g. in a schema that the response repeats, the one with the most tokens counts.
        """
        text = self.octets[-_TAIL_BYTES:].decode("utf-8", "replace")
        complete = dict(members)
        for name, key in _USAGE_KEYS.items():
            found = [*_objects(text, key), *(each for each in (members.get(name),) if isinstance(each, dict))]
            if found:
                complete[name] = max(found, key=_weight)
        return complete


def members_in_head(head: bytes) -> Mapping[str, Any]:
    """Return the members of an object whose text breaks off, up to there."""
    try:
        members = from_json(head.decode("utf-8", "ignore"), allow_partial=True)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _objects(text: str, key: re.Pattern[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that follow a key."""
    decoder = json.JSONDecoder()
    for found in key.finditer(text):
        try:
            value, _ = decoder.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            continue
        yield value


def _weight(usage: Mapping[str, Any]) -> int:
    """Return the sum of all counts in an object and in those within it."""
    counts = (value for value in usage.values() if isinstance(value, int))
    return sum(counts) + sum(_weight(value) for value in usage.values() if isinstance(value, dict))
