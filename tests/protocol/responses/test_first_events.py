"""The beginning of a stream: a failure before anything was generated, in any split."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocm_wsgi.protocol.responses.first_events import early_failure, is_decided

CREATED = {"type": "response.created", "response": {"id": "resp_1"}}
IN_PROGRESS = {"type": "response.in_progress"}
ADDED = {"type": "response.output_item.added"}


def failed(code: str | None, **members: Any) -> dict[str, Any]:
    """Return the event of a failure."""
    return {
        "type": "response.failed",
        "response": {"id": "resp_1", "error": {"code": code, "message": "No.", **members}},
    }


def stream(*events: object, newline: str = "\n") -> bytes:
    """Return events as a stream."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"event: x{newline}data: {text}{newline}{newline}" for text in texts).encode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((CREATED, failed("usage_limit_reached")), 429),
        ((CREATED, IN_PROGRESS, failed("rate_limit_exceeded")), 429),
        ((failed("server_is_overloaded"),), 503),
        (({"type": "error", "error": {"type": "usage_limit_reached"}},), 429),
        (({"type": "error", "code": "slow_down", "message": "Slow."},), 503),
        ((CREATED, failed("context_length_exceeded")), None),
        ((CREATED, failed(None)), None),
        ((CREATED, ADDED, failed("usage_limit_reached")), None),
        (("not JSON", failed("usage_limit_reached")), None),
        (("[]", failed("usage_limit_reached")), None),
        ((CREATED, {"type": "response.failed", "response": 5}), None),
        ((CREATED, {"type": "response.failed", "response": {"error": {"code": []}}}), None),
        ((CREATED, IN_PROGRESS), None),
    ],
)
def test_early_failures(events: tuple[Any, ...], status: int | None, newline: str) -> None:
    """Only a failure that is not about the request, as the first event of substance."""
    data = stream(*events, newline=newline)
    found = early_failure(data)
    assert (found and found[0]) == status
    # Whatever has arrived of it, nothing is decided too early.
    decided = [is_decided(data[:length]) for length in range(len(data) + 1)]
    assert decided == sorted(decided)
    assert decided[-1] == (events != (CREATED, IN_PROGRESS))
    for length, is_known in enumerate(decided):
        assert (early_failure(data[:length]) == found) if is_known else early_failure(data[:length]) is None


def test_the_document_is_that_of_a_response() -> None:
    """With what says when the limit ends."""
    found = early_failure(stream(CREATED, failed("usage_limit_reached", resets_at=5)))
    assert found is not None
    assert found[1]["error"]["resets_at"] == 5
