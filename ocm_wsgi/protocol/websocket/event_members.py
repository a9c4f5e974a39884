"""Members of a server's events, as far as they have the expected type. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocm_wsgi.protocol.responses.error_codes import label

_STATUSES = range(400, 600)


def object_of(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a member that is an object; an empty one if it is none."""
    value = event.get(name)
    return value if isinstance(value, dict) else {}


def lane_of(event: Mapping[str, Any]) -> str | None:
    """Return the lane of an event, or ``None``."""
    return label(event.get("stream_id"))


def status_of(event: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error stands for, or ``None``."""
    for name in ("status", "status_code"):
        status = event.get(name)
        if isinstance(status, int) and status in _STATUSES:
            return status
    return None


def text_fields(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the response fields that an event names."""
    return [(name, str(value)) for name, value in fields.items() if isinstance(value, (str, int, float))]
