"""The messages that a client may send, and what each asks for. Pure; no I/O.

A message of any other kind is refused: it might make a model work in a way that nobody counts. So is one that two
parsers might read differently.

Source: https://developers.openai.com/api/docs/guides/websocket-mode, openai-python's ``ResponsesClientEvent``, and
openai/codex, ``codex-rs/codex-api/src/endpoint/responses_websocket.rs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ocm_wsgi.errors import MessageRejected
from ocm_wsgi.protocol.http.content_coding import DecodingError
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.estimate import InputMeter
from ocm_wsgi.protocol.responses.references import FindReferences, no_references_in
from ocm_wsgi.protocol.responses.request import FACT_MEMBERS, RequestFacts, facts_of, top_level_members

#: What a message asks for: ``turn``, a response; ``steer``, another response that follows the one it names;
#: ``input``, that the response it names continues; ``control``, nothing that makes a model work.
Purpose = Literal["turn", "steer", "input", "control"]

#: The kinds of message that pass, by their ``type``.
PURPOSES: Mapping[str, Purpose] = {
    "response.create": "turn",
    "response.steer": "steer",
    # Of the beta for several agents: results of tools, for which a response in progress waits.
    "response.inject": "input",
    "response.interrupt": "control",
    # Codex sends this between two turns in some releases.
    "response.processed": "control",
}

_MEMBERS = frozenset({"type", "generate", "stream_id", "response_id", *FACT_MEMBERS})


@dataclass(frozen=True)
class ClientMessage:
    """A client's message, as far as it matters.

    :ivar facts: what it asks for, if it is a ``turn``.
    :ivar stream_id: the lane of its responses: those of one lane come one after another, and lanes side by side.
    :ivar response_id: the response that it continues, or ``None``.
    :ivar is_prewarm: nothing is to be generated (``"generate": false``).
    :ivar input_tokens: estimate of its text and its images.
    """

    purpose: Purpose
    facts: RequestFacts
    stream_id: str | None = None
    response_id: str | None = None
    is_prewarm: bool = False
    input_tokens: int = field(default=0, compare=False)


def read_message(blocks: Iterable[bytes], find_references: FindReferences = no_references_in) -> ClientMessage:
    """Return what a message asks for.

    :param blocks: the message, unmasked and decompressed. Iterating may raise ``DecodingError``.
    :param find_references: finds the stored objects that it refers to.
    :raises MessageRejected: the message cannot be read, or its kind is not in :data:`PURPOSES`.
    """
    meter = InputMeter()
    try:
        members = top_level_members(meter.measured(blocks), _MEMBERS)
    except DecodingError as exc:
        raise MessageRejected(f"The message cannot be read. {exc}") from exc
    if members is None:
        raise MessageRejected(
            "The message is not one JSON object in UTF-8 that names each of its members once, or is too intricate."
        )
    kind = members.get("type")
    purpose = PURPOSES.get(kind) if isinstance(kind, str) else None
    if purpose is None:
        raise MessageRejected(f"Only these types of message are relayed: {', '.join(PURPOSES)}.")
    continued = members.get("previous_response_id" if purpose in ("turn", "steer") else "response_id")
    return ClientMessage(
        purpose,
        facts_of(members, find_references(members)),
        stream_id=label(members.get("stream_id")),
        response_id=label(continued),
        is_prewarm=members.get("generate") is False,
        input_tokens=meter.finish(),
    )
