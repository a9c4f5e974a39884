"""Reads how a turn ended out of OpenAI's JSON, for every transport. Pure; no I/O.

SSE, JSON bodies and WebSocket messages all use it. Where the usage is in an answer, :mod:`.usage` knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.bounded_buffer import BoundedBuffer, members_in_head
from ocm_wsgi.protocol.responses.error_codes import error_code, label
from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus
from ocm_wsgi.protocol.responses.usage import answer_usage, tool_usage_of

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

_OBJECT_STATUS: Mapping[str, TurnStatus] = {
    "incomplete": "incomplete",
    "cancelled": "incomplete",
    "expired": "incomplete",
    "failed": "failed",
}
# Of these objects, an answer that does not name one of these ends says nothing final.
_JOBS = frozenset({"response", "batch", "fine_tuning.job", "eval.run", "thread.run"})
_ENDS = frozenset({"", "completed", "succeeded", *_OBJECT_STATUS})


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


def object_outcome(
    body: Mapping[str, Any], status: TurnStatus | None = None, *, family: Family = "responses"
) -> Outcome:
    """Return the outcome in a Responses object, a chat completion or the answer of another endpoint.

    :param status: the event's status, or ``None`` to use the object's own.
    """
    status = status or _status_of(body)
    return Outcome(
        status,
        # That of a job in progress is not final.
        usage=None if status == "in_progress" else answer_usage(body, family),
        tool_usage=tool_usage_of(body) if family == "responses" else None,
        model=label(body.get("model")),
        service_tier=label(body.get("service_tier")),
        error_code=error_code(body) or _incomplete_reason(body),
        body=body,
    )


def _status_of(body: Mapping[str, Any]) -> TurnStatus:
    own_status = label(body.get("status")) or ""
    if own_status not in _ENDS and body.get("object") in _JOBS:
        return "in_progress"
    return _OBJECT_STATUS.get(own_status, "completed")


def large_object_outcome(buffer: BoundedBuffer, *, family: Family = "responses") -> Outcome:
    """Return the outcome in a body that would take too long to parse, as far as its ends say."""
    return object_outcome(buffer.with_usage(members_in_head(buffer.first_octets())), family=family)


def large_event(buffer: BoundedBuffer, *, head: bytes | None = None) -> dict[str, Any]:
    """Return the members of an event of the Responses API that would take too long to parse, as far as its ends say.

    :param head: the beginning of its JSON, if the buffer's is not.
    """
    event = dict(members_in_head(buffer.first_octets() if head is None else head))
    response = event.get("response")
    return {**event, "response": buffer.with_usage(response if isinstance(response, dict) else {})}


def error_outcome(body: Any) -> Outcome:
    """Return the outcome of a response with a status of 400 or more; ``body`` may be anything."""
    return Outcome("error", error_code=error_code(body))


def _incomplete_reason(body: Mapping[str, Any]) -> str | None:
    details = body.get("incomplete_details")
    return label(details.get("reason")) if isinstance(details, dict) else None
