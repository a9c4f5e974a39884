"""The beginning of a stream of events: whether the account failed before anything was generated. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ocm_wsgi.protocol.responses.outcome import parse_json

#: Events that come before anything is generated.
_PRELIMINARY = frozenset({"response.created", "response.in_progress", "response.queued", "codex.rate_limits"})

#: Codes of failures that are not about the request, and the status that an HTTP response with them would have.
_STATUSES: Mapping[str, int] = {
    "credit_balance_exhausted": 429,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "usage_limit_reached": 429,
    "usage_not_included": 429,
}

_END = re.compile(rb"\r?\n\r?\n")


def is_decided(beginning: bytes) -> bool:
    """Return whether the beginning of a stream has an event that follows the preliminary ones."""
    return _first(beginning) is not None


def early_failure(beginning: bytes) -> tuple[int, Mapping[str, Any]] | None:
    """Return the failure with which a stream begins: the status of such a response, and the document in its body.

    :return: ``None`` if something was generated first, or the failure is about the request.
    """
    event = _first(beginning)
    if event is None:
        return None
    error: Any = event
    if event.get("type") == "response.failed":
        error = event.get("response")
    elif event.get("type") != "error":
        return None
    details = error.get("error") if isinstance(error, dict) else None
    details = details if isinstance(details, dict) else event
    code = details.get("code") or details.get("type")
    status = _STATUSES.get(code) if isinstance(code, str) else None
    return None if status is None else (status, {"error": details})


def _first(beginning: bytes) -> Mapping[str, Any] | None:
    return next((event for event in _events(beginning) if event.get("type") not in _PRELIMINARY), None)


def _events(beginning: bytes) -> Iterator[Mapping[str, Any]]:
    """Yield the complete events. One that cannot be read counts as generated."""
    *complete, _ = _END.split(beginning)
    for block in complete:
        data = b"\n".join(line[5:].strip() for line in block.splitlines() if line.startswith(b"data:"))
        if data:
            event = parse_json(data)
            yield event if isinstance(event, dict) else {}
