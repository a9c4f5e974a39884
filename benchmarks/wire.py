"""The exact bytes that upstream sends and the load generator expects. No I/O."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ocm_wsgi.protocol.websocket.frames import server_close, server_text, unmask

#: The request target at upstream, and the one that clients use.
UPSTREAM_PATH = "/backend-api/codex/responses"
CLIENT_PATH = "/v1/responses"

#: The size of a typical text delta: of an event over SSE, of a message over a WebSocket.
EVENT_BYTES = 158
_SEQUENCE_NUMBER_WIDTH = 6
# Digits of a monotonic clock in nanoseconds, padded with spaces so that all events have the same length.
_SENT_WIDTH = 19

MAX_EVENTS = 10**_SEQUENCE_NUMBER_WIDTH - 1
MODEL = "gpt-5.4"
# About the size of Codex's requests in the middle of a session, and of an SDK's short request.
_STREAM_INPUT_BYTES = 40_000
_SHORT_INPUT_BYTES = 400
#: The events of a short turn, without the terminal one, and their rate per second: none arrives with another.
SHORT_EVENTS = 5
SHORT_RATE = 1000.0


@dataclass(frozen=True)
class Format:
    """The format of a turn's events.

    :ivar template: an event with placeholders for its number and time; all events have the same length.
    :ivar completed: the terminal event, of about 2 KB, with usage.
    """

    template: bytes
    completed: bytes

    @property
    def event_bytes(self) -> int:
        return len(self.event(0, 0))

    def event(self, sequence_number: int, sent_ns: int) -> bytes:
        """Return a text delta that contains the time at which it is sent.

        :param sent_ns: from ``time.monotonic_ns``, which all processes on a machine share.
        """
        return self.template % (sequence_number, sent_ns)

    def sent_ns(self, event: bytes) -> int:
        """Return the time in an event."""
        end = event.rindex(b"}")
        return int(event[end - _SENT_WIDTH : end])


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


def _delta(text: bytes) -> bytes:
    return b'{"type":"response.output_text.delta","sequence_number":%%6d,"delta":"%s","sent_ns":%%19d}' % text


def _completed() -> bytes:
    members = {"type": "response.completed", "sequence_number": MAX_EVENTS, "response": _response("word " * 240)}
    return json.dumps(members, separators=(",", ":")).encode()


SSE = Format(
    b"event: response.output_text.delta\ndata: " + _delta(b" some words..") + b"\n\n",
    b"event: response.completed\ndata: " + _completed() + b"\n\n",
)
# More text in place of SSE's framing, so that both formats have the same size.
_MESSAGE = _delta(b" some words".ljust(55, b"."))
WEBSOCKET = Format(server_text(_MESSAGE % (0, 0)).removesuffix(_MESSAGE % (0, 0)) + _MESSAGE, server_text(_completed()))


def stream_query(events: int, rate: float) -> str:
    """Return the query of a request for a stream of ``events`` events, ``rate`` per second."""
    return f"?events={events}&rate={rate}"


def stream_body(query: str = "") -> bytes:
    """Return the body of a request for a stream.

    :param query: the query, repeated at the start of the text for servers that do not pass it on.
    """
    return _request_body({"stream": True}, _STREAM_INPUT_BYTES, start=f"{query} " if query else "")


def short_body(query: str) -> bytes:
    """Return the body of a request for a short turn; ``query`` is repeated as in :func:`stream_body`."""
    return _request_body({"stream": True}, _SHORT_INPUT_BYTES, start=f"{query} ")


def _request_body(members: dict[str, Any], size: int, *, start: str = "") -> bytes:
    text = (start + "a line of some file\n" * (size // 20 + 1))[:size]
    content = [{"type": "input_text", "text": text}]
    message = {"type": "message", "role": "user", "content": content}
    return json.dumps({**members, "model": MODEL, "store": False, "input": [message]}).encode()


# The example of RFC 6455 section 1.3. Clients need no distinct keys here.
SOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\x11\x22\x33\x44"
_MASK_BIT = 0x80


def socket_accept(key: bytes) -> bytes:
    """Return the response's ``Sec-WebSocket-Accept`` for a request's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())


def masked(frame: bytes, payload: bytes, mask: bytes = _MASK) -> bytes:
    """Return a server's frame with this payload, masked as a client would send it."""
    head = frame.removesuffix(payload)
    return bytes([head[0], head[1] | _MASK_BIT]) + head[2:] + mask + unmask(payload, mask, 0)


def remasked(received: bytes, sent: bytes) -> bytes:
    """Return a client's frame with the mask that it was received with, if a server has masked it again.

    :param received: the beginning of a frame, or all of it.
    :param sent: the frame as it was sent.
    """
    head = sent[: sent.index(_MASK)]
    mask = received[len(head) : len(head) + len(_MASK)]
    if not received.startswith(head) or len(mask) < len(_MASK) or mask == _MASK:
        return sent
    body = sent[len(head) + len(_MASK) :]
    return head + mask + unmask(unmask(body, _MASK, 0), mask, 0)


def _create() -> bytes:
    payload = _request_body({"type": "response.create"}, _STREAM_INPUT_BYTES)
    return masked(server_text(payload), payload)


#: A client's frames on a WebSocket: the request for a turn, and the Close frame at its end.
CREATE = _create()
CLIENT_CLOSE = masked(server_close(1000), (1000).to_bytes(2, "big"))
#: Upstream's Close frame in response.
CLOSED = server_close(1000)
