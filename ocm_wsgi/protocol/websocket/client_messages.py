"""What a client's WebSocket message asks for. Pure; no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.request import RequestFacts, facts_of, top_level_members

_CREATE_TYPE = "response.create"
_MEMBERS = ("type", "model", "service_tier", "generate")
# A message that asks for no turn is no longer than this, in octets.
_SHORT_BYTES = 64 * 1024


@dataclass(frozen=True)
class ResponseCreate:
    """A message that asks for a turn.

    :ivar facts: all ``None`` if the message could not be read.
    :ivar is_prewarm: nothing is to be generated (``"generate": false``).
    """

    facts: RequestFacts
    is_prewarm: bool = False


def response_create(blocks: Iterable[bytes]) -> ResponseCreate | None:
    """Return what a message asks for, or ``None`` if it is certainly not a ``response.create``.

    :param blocks: the message, unmasked and decompressed, read to the end. Iterating may raise ``DecodingError``.
    """
    remaining = iter(blocks)
    head = bytearray()

    def copied() -> Iterator[bytes]:
        for block in remaining:
            if len(head) <= _SHORT_BYTES:
                head.extend(block)
            yield block

    try:
        members = top_level_members(copied(), _MEMBERS)
        for _ in remaining:
            # The decompressor must see the whole message, even if the scan gave up.
            pass
    except DecodingError:
        members = None
    if members is None:
        return ResponseCreate(RequestFacts())
    if members.get("type") == _CREATE_TYPE:
        return ResponseCreate(facts_of(members), is_prewarm=members.get("generate") is False)
    return None if len(head) <= _SHORT_BYTES and _is_unambiguous(head) else ResponseCreate(RequestFacts())


def _is_unambiguous(text: bytes | bytearray) -> bool:
    """Return whether every JSON parser reads the same members: no object repeats one."""
    try:
        json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is repeated")
    return members
