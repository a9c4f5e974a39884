"""What OpenAI's JSON says of how a turn ended, whatever carried it. Pure; no I/O.

One place knows where usage stands in a Responses object, a chat completion and an error; SSE, JSON bodies and
WebSocket messages all come here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus, Usage

#: The events that end a turn, by the ``type`` in their JSON.
TERMINAL_TYPES: Mapping[str, TurnStatus] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}

#: Every event that can be terminal or an error matches this in its raw bytes. A quotation mark inside a JSON string
#: stands behind a backslash, so text that only speaks of these names does not match.
TYPE_PATTERN = rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)|error)"'

_TYPE_BYTES = re.compile(TYPE_PATTERN)
_TYPE_TEXT = re.compile(TYPE_PATTERN.decode())
_FIRST_TYPE_BYTES = re.compile(rb'\s*\{\s*"type"\s*:\s*"([^"\\]*)"')
_FIRST_TYPE_TEXT = re.compile(_FIRST_TYPE_BYTES.pattern.decode())

#: What SQLite and PostgreSQL can hold. A larger figure is a mistake.
_LARGEST_COUNT = 2**63 - 1

_LONGEST_LABEL = 256

_OBJECT_STATUS: Mapping[str, TurnStatus] = {
    "incomplete": "incomplete",
    "cancelled": "incomplete",
    "failed": "failed",
}


def parse_json(data: bytes | bytearray | str) -> Any:
    """Parse JSON from upstream; ``None`` for what is none. Bad UTF-8 is replaced, as SSE clients do."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        # A request of 40 KB takes it 15 to 100 microseconds, and json 60 to 200. Only keys are worth remembering.
        return from_json(text, cache_strings="keys")
    except ValueError:
        pass  # It may still be what json takes: a surrogate that stands alone, or more than 200 levels.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def observe_message(text: bytes | str) -> Outcome | None:
    """How this event ends the turn, or ``None`` if it does not.

    For one whole WebSocket message, or the data of one Server-Sent Event. Only what may be terminal is parsed, and
    what names another type at its beginning, as OpenAI's events do, is not even searched.

    :param text: one JSON object. Of type ``error``: status ``error``.
    """
    if isinstance(text, str):
        first, found = _FIRST_TYPE_TEXT.match(text), _TYPE_TEXT.search
        if (first and not _ends_turn(first[1])) or not found(text):
            return None
    else:
        first_bytes = _FIRST_TYPE_BYTES.match(text)
        if (first_bytes and not _ends_turn(first_bytes[1].decode("utf-8", "replace"))) or not _TYPE_BYTES.search(text):
            return None
    return event_outcome(parse_json(text))


def event_outcome(event: Any) -> Outcome | None:
    """The outcome that a parsed event of the Responses API gives, or ``None`` when it ends nothing."""
    if not isinstance(event, dict):
        return None
    type_ = event.get("type")
    if type_ == "error":
        return Outcome("error", error_code=_error_code(event))
    status = TERMINAL_TYPES.get(type_) if isinstance(type_, str) else None
    if status is None:
        return None
    response = event.get("response")
    return object_outcome(response if isinstance(response, dict) else {}, status)


def object_outcome(body: Mapping[str, Any], status: TurnStatus | None = None) -> Outcome:
    """The outcome that a Responses object, a chat completion or a similar object gives.

    :param status: as the event said, or ``None`` to take the object's own.
    """
    own_status = label(body.get("status")) or ""
    return Outcome(
        status or _OBJECT_STATUS.get(own_status, "completed"),
        usage=usage_of(body.get("usage")),
        model=label(body.get("model")),
        service_tier=label(body.get("service_tier")),
        response_id=label(body.get("id")),
        error_code=_error_code(body) or _incomplete_reason(body),
    )


def error_outcome(body: Any) -> Outcome:
    """The outcome of a response with a status of 400 or more; ``body`` may be anything at all."""
    return Outcome("error", error_code=_error_code(body) if isinstance(body, dict) else None)


def label(value: object) -> str | None:
    """A name fit for a database, a log line and a page: short and printable; ``None`` for anything else."""
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_LABEL and value.isprintable():
        return value
    return None


def usage_of(usage: Any) -> Usage | None:
    """Read a ``usage`` object, of the Responses API or of chat completions.

    :return: ``None`` when it is absent or null, names no tokens, or holds what are no counts.
    """
    if not isinstance(usage, dict):
        return None
    input_tokens = usage.get("input_tokens", usage.get("prompt_tokens"))
    output_tokens = usage.get("output_tokens", usage.get("completion_tokens"))
    if input_tokens is None and output_tokens is None:
        return None
    counts = (
        input_tokens or 0,
        _detail(usage, "cached_tokens", "input_tokens_details", "prompt_tokens_details"),
        output_tokens or 0,
        _detail(usage, "reasoning_tokens", "output_tokens_details", "completion_tokens_details"),
        _detail(usage, "cache_write_tokens", "input_tokens_details", "prompt_tokens_details"),
    )
    return Usage(*counts) if all(map(_is_count, counts)) else None


def _detail(usage: Mapping[str, Any], name: str, *places: str) -> Any:
    for place in places:
        details = usage.get(place)
        if isinstance(details, dict):
            return details.get(name) or 0
    return 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT


def _ends_turn(type_: str) -> bool:
    return type_ == "error" or type_ in TERMINAL_TYPES


def _error_code(body: Mapping[str, Any]) -> str | None:
    """``error.code``, else ``error.type``, else ``code``: OpenAI's shapes, of the backend and of the platform."""
    error = body.get("error")
    if isinstance(error, dict):
        return label(error.get("code")) or label(error.get("type"))
    return label(error) or label(body.get("code"))


def _incomplete_reason(body: Mapping[str, Any]) -> str | None:
    details = body.get("incomplete_details")
    return label(details.get("reason")) if isinstance(details, dict) else None
