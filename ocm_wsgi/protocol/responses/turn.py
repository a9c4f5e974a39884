"""The values that describe a turn: found by observers, stored in the ledger, shown everywhere. Pure; no I/O.

A *turn* is one response of a model, whatever carried it: Server-Sent Events, a JSON body or a WebSocket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

#: Characters of a request ID, the client's or upstream's, that are recorded and logged.
MAX_REQUEST_ID_LENGTH = 128

Transport = Literal["sse", "json", "websocket"]

#: ``completed``, ``incomplete`` and ``failed`` are OpenAI's own words. ``cut`` means that the response ended before its
#: terminal event; ``error`` that upstream refused it with an HTTP status of 400 or more, or with an ``error`` message.
#: ``in_progress`` is a response in the background whose end is not known yet.
TurnStatus = Literal["completed", "incomplete", "failed", "cut", "error", "in_progress"]


@dataclass(frozen=True)
class Usage:
    """What one turn used, as counted by OpenAI or, for an estimated turn, by us. All are integers, at least 0.

    Tokens of images and audio are parts of the input and the output: text is what remains of these.

    :ivar input_tokens: all input, cached included.
    :ivar cached_tokens: the part of the input that came from the prompt cache.
    :ivar output_tokens: all output, reasoning included.
    :ivar reasoning_tokens: the part of the output that was reasoning.
    :ivar cache_write_tokens: the part of the input that was written to the prompt cache; newer models bill it
        separately.
    :ivar image_input_tokens: the part of the input that was images; ``image_cached_tokens`` is the cached part of it.
    :ivar image_output_tokens: the part of the output that was images.
    :ivar audio_input_tokens: the part of the input that was audio; ``audio_cached_tokens`` is the cached part of it.
    :ivar audio_output_tokens: the part of the output that was audio.
    :ivar media_ms: audio or video that is billed by its length, in milliseconds.
    :ivar characters: text that is billed by its length.
    :ivar items: what is billed by the piece: images, searches, calls of hosted tools.
    """

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    image_input_tokens: int = 0
    image_cached_tokens: int = 0
    image_output_tokens: int = 0
    audio_input_tokens: int = 0
    audio_cached_tokens: int = 0
    audio_output_tokens: int = 0
    media_ms: int = 0
    characters: int = 0
    items: int = 0


@dataclass(frozen=True)
class ToolUsage:
    """What hosted tools used beside the model.

    :ivar images: tokens of images that a tool has made.
    :ivar web_searches: how many searches of the web are billed.
    :ivar file_searches: how many searches in vector stores are.
    """

    images: Usage = Usage(0, 0, 0)
    web_searches: int = 0
    file_searches: int = 0

    @property
    def total(self) -> Usage:
        """All of it, with searches as items."""
        return replace(self.images, items=self.images.items + self.web_searches + self.file_searches)


@dataclass(frozen=True)
class Outcome:
    """How a turn ended, as far as its octets say.

    :ivar usage: ``None`` if upstream did not report it, which is not the same as zero.
    :ivar model: the model that responded, by upstream's name.
    :ivar service_tier: by upstream's name (``default``, ``priority``, ``flex``), or ``None``.
    :ivar tool_usage: what hosted tools used beside the model, which is not part of ``usage``; ``None`` for nothing.
    :ivar body: the object that says so, parsed: a Responses object, a chat completion, or any other answer.
    """

    status: TurnStatus
    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None
    error_code: str | None = None
    tool_usage: ToolUsage | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Turn:
    """One row of the ledger.

    :ivar id: globally unique, generated when the turn starts, so that a turn cannot be recorded twice.
    :ivar started_at: Unix seconds, when the request reached us.
    :ivar user: name of the user, or ``""`` if no users are configured.
    :ivar credential: which of the owner's credentials paid; ``"default"`` while there is one.
    :ivar model: the model that responded, else the requested one, else ``""``.
    :ivar service_tier: ``default`` unless the request or the response says otherwise.
    :ivar context_window: the model's price tier by context length, in tokens; 0 if prices do not depend on it.
    :ivar week_start: Unix seconds of the start of the subscription's weekly window, or ``None`` if unknown.
    :ivar cost_micro_usd: millionths of a US dollar, or ``None`` for a model without a price.
    :ivar first_byte_ms: from the request's arrival to the first byte of upstream's response.
    :ivar http_status: of the response that the client received; 0 if upstream had not begun to respond.
    :ivar estimated: whether the usage is our estimate, because upstream did not report it.
    """

    id: str
    started_at: float
    user: str
    credential: str
    model: str
    service_tier: str
    context_window: int
    week_start: int | None
    usage: Usage | None
    cost_micro_usd: int | None
    transport: Transport
    status: TurnStatus
    http_status: int
    first_byte_ms: int
    duration_ms: int
    request_id: str = ""
    error_code: str = ""
    estimated: bool = False
