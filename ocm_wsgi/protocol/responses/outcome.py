"""Reads how a turn ended out of OpenAI's JSON, for every transport. Pure; no I/O.

The only module that knows where usage is found in a Responses object, a chat completion and an error. SSE, JSON bodies
and WebSocket messages all use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from ocm_wsgi.protocol.responses.error_codes import error_code, label
from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus, Usage

#: The events that end a turn, by the ``type`` in their JSON.
TERMINAL_TYPES: Mapping[str, TurnStatus] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}

#: Matches the raw octets of every event that may be terminal or an error. Inside a JSON string a quotation mark is
#: escaped with a backslash, so text that only mentions these names does not match.
TYPE_PATTERN = rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)|error)"'

# How an event begins, up to its type: OpenAI puts the type first.
_TYPE_PREFIX = rb'\{%(space)b"type"%(space)b:%(space)b"'

# The largest integer that SQLite and PostgreSQL can hold. A larger count is an error.
_LARGEST_COUNT = 2**63 - 1

_OBJECT_STATUS: Mapping[str, TurnStatus] = {
    "incomplete": "incomplete",
    "cancelled": "incomplete",
    "failed": "failed",
}


def type_prefix_pattern(*, space: bytes = rb"\s*") -> bytes:
    """Return a pattern for the beginning of an event's JSON, up to the first character of its type.

    :param space: a pattern for the whitespace between tokens.
    """
    return _TYPE_PREFIX % {b"space": space}


def parse_json(data: bytes | bytearray | str) -> Any:
    """Return parsed JSON, or ``None`` if it is invalid. Invalid UTF-8 is replaced, as SSE clients do."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        # Takes 15 to 100 microseconds for a request of 40 KB, where json takes 60 to 200. Only keys are worth caching.
        return from_json(text, cache_strings="keys")
    except ValueError:
        pass  # json also accepts a lone surrogate and more than 200 levels.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def event_outcome(event: Any) -> Outcome | None:
    """Return the outcome in a parsed event of the Responses API, or ``None`` if the event does not end a turn."""
    if not isinstance(event, dict):
        return None
    type_ = event.get("type")
    if type_ == "error":
        return Outcome("error", error_code=error_code(event))
    status = TERMINAL_TYPES.get(type_) if isinstance(type_, str) else None
    if status is None:
        return None
    response = event.get("response")
    return object_outcome(response if isinstance(response, dict) else {}, status)


def object_outcome(body: Mapping[str, Any], status: TurnStatus | None = None) -> Outcome:
    """Return the outcome in a Responses object, a chat completion or a similar object.

    :param status: the event's status, or ``None`` to use the object's own.
    """
    own_status = label(body.get("status")) or ""
    return Outcome(
        status or _OBJECT_STATUS.get(own_status, "completed"),
        usage=usage_of(body.get("usage")),
        model=label(body.get("model")),
        service_tier=label(body.get("service_tier")),
        error_code=error_code(body) or _incomplete_reason(body),
        body=body,
    )


def error_outcome(body: Any) -> Outcome:
    """Return the outcome of a response with a status of 400 or more; ``body`` may be anything."""
    return Outcome("error", error_code=error_code(body))


def usage_of(usage: Any) -> Usage | None:
    """Return the usage in a ``usage`` object of the Responses API or of chat completions.

    :return: ``None`` if the object is absent or null, names no tokens, or holds values that are not counts.
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


def _incomplete_reason(body: Mapping[str, Any]) -> str | None:
    details = body.get("incomplete_details")
    return label(details.get("reason")) if isinstance(details, dict) else None
