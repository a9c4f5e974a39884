"""What a client's WebSocket message asks for: ``response.create``, and of which model. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.outcome import label, parse_json
from ocm_wsgi.protocol.responses.request import RequestFacts, request_facts

CREATE_TYPE = "response.create"

#: Up to here a message is parsed whole. A larger one is scanned for what decides about it, and is a
#: ``response.create``: nothing else that a client says is so long.
_PARSED_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ResponseCreate:
    """A message that asks for a turn.

    :ivar facts: all ``None`` where the message could not be read.
    :ivar is_prewarm: nothing is to be generated (``"generate": false``). Not told of a message above 1 MiB.
    :ivar previous_response_id: of the turn that this one goes on from. Not told of a message above 1 MiB.
    """

    facts: RequestFacts
    is_prewarm: bool = False
    previous_response_id: str | None = None


def response_create(blocks: Iterable[bytes]) -> ResponseCreate | None:
    """Read what a message asks for; ``None`` when it is surely not a ``response.create``.

    :param blocks: its octets, unmasked and decompressed; read to their end. ``DecodingError`` may come out of them.
    """
    rest = iter(blocks)
    small = bytearray()
    try:
        for block in rest:
            small += block
            if len(small) > _PARSED_BYTES:
                return _scanned(bytes(small), rest)
    except DecodingError:
        return ResponseCreate(RequestFacts())
    return _parsed(bytes(small))


def _scanned(start: bytes, rest: Iterator[bytes]) -> ResponseCreate:
    facts = request_facts(chain((start,), rest))
    for _ in rest:
        # The decompressor must have seen all of it, also where the scan gave up.
        pass
    return ResponseCreate(facts)


def _parsed(text: bytes) -> ResponseCreate | None:
    members = parse_json(text)
    if not isinstance(members, dict):
        return ResponseCreate(RequestFacts())
    # A member that comes twice could be one thing to us and another to upstream, so the text itself is asked, too.
    if members.get("type") != CREATE_TYPE and CREATE_TYPE.encode() not in text:
        return None
    stream = members.get("stream")
    return ResponseCreate(
        RequestFacts(
            label(members.get("model")),
            label(members.get("service_tier")),
            stream if isinstance(stream, bool) else None,
        ),
        is_prewarm=members.get("generate") is False,
        previous_response_id=label(members.get("previous_response_id")),
    )
