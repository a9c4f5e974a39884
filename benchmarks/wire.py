"""What upstream sends and the load generator expects, octet for octet. No I/O."""

from __future__ import annotations

import json
from typing import Any

#: The target of a request, as upstream is asked for it and as a client asks for it.
UPSTREAM_PATH = "/backend-api/codex/responses"
CLIENT_PATH = "/v1/responses"

#: The size of a usual text delta.
EVENT_BYTES = 158
_SEQUENCE_NUMBER_WIDTH = 6
# Digits of a monotonic clock in nanoseconds, padded with spaces, so that all events have one length.
_SENT_WIDTH = 19
_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":%6d,"delta":" some words..","sent_ns":%19d}\n\n'
)
_SENT_AT = slice(-len(b"}\n\n") - _SENT_WIDTH, -len(b"}\n\n"))

MAX_EVENTS = 10**_SEQUENCE_NUMBER_WIDTH - 1
MODEL = "gpt-5.4"
# About what Codex sends in the middle of a session, and what an SDK sends for one small question.
_STREAM_INPUT_BYTES = 40_000
_TURN_INPUT_BYTES = 400


def event(sequence_number: int, sent_ns: int) -> bytes:
    """Return a text delta of :data:`EVENT_BYTES` octets that carries the time at which it is sent.

    :param sent_ns: of ``time.monotonic_ns``, which all processes of a machine share.
    """
    return _EVENT % (sequence_number, sent_ns)


def sent_ns(octets: bytes) -> int:
    """Return the time that an event carries."""
    return int(octets[_SENT_AT])


def _response(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}]
    return {
        "id": "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "object": "response",
        "created_at": 1767225600,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "output": [
            {
                "id": "msg_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": content,
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "medium", "summary": None},
        "service_tier": "default",
        "store": False,
        "tools": [],
        "usage": {
            "input_tokens": 10_000,
            "input_tokens_details": {"cached_tokens": 8_000},
            "output_tokens": 300,
            "output_tokens_details": {"reasoning_tokens": 64},
            "total_tokens": 10_300,
        },
        "metadata": {},
    }


def _completed() -> bytes:
    members = {"type": "response.completed", "sequence_number": MAX_EVENTS, "response": _response("word " * 240)}
    return f"event: response.completed\ndata: {json.dumps(members, separators=(',', ':'))}\n\n".encode()


#: The terminal event, of about 2 KB, with usage.
COMPLETED = _completed()
#: A whole small turn, not streamed, with usage.
TURN = json.dumps(_response("A short answer."), separators=(",", ":")).encode()


def stream_query(events: int, rate: float) -> str:
    """Return what is behind the path of a request for a stream of ``events`` events, ``rate`` a second."""
    return f"?events={events}&rate={rate}"


def stream_body() -> bytes:
    """Return the body of a request for a stream."""
    return _request_body(stream=True, size=_STREAM_INPUT_BYTES)


def turn_body() -> bytes:
    """Return the body of a request for a small turn that is not streamed."""
    return _request_body(stream=False, size=_TURN_INPUT_BYTES)


def _request_body(*, stream: bool, size: int) -> bytes:
    text = ("a line of some file\n" * (size // 20 + 1))[:size]
    content = [{"type": "input_text", "text": text}]
    message = {"type": "message", "role": "user", "content": content}
    return json.dumps({"model": MODEL, "stream": stream, "store": False, "input": [message]}).encode()
