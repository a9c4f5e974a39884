"""Responses of servers that rewrite them, compared with upstream's by content. No I/O."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import wire
from benchmarks.responses import Damaged, Events, StreamedResponse, Times

# The end of chat completion streams, which some servers send at the end of response streams too.
_DONE = b"[DONE]"


def _data(event: bytes) -> bytes:
    return b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


_DELTA = json.loads(_data(wire.SSE.event(0, 0)))
_COMPLETED = json.loads(_data(wire.SSE.completed))


class RewrittenEvents(Events):
    """The events of a turn and their terminal one, as rewritten by another server."""

    def __init__(self, expected: int, latencies: Times) -> None:
        super().__init__(wire.SSE, expected, latencies)
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def feed(self, received: bytes, now_ns: int) -> None:
        """Process bytes received at ``now_ns``.

        :raises Damaged: the content differs from upstream's.
        """
        *events, self._received = (self._received + received).split(b"\n\n")
        for event in events:
            data = _data(event)
            if data and data != _DONE:
                self._take_members(_members(data), now_ns)

    def _take_members(self, members: dict[str, Any], now_ns: int) -> None:
        if self.count < self._expected:
            sent_ns = members.get("sent_ns")
            sent = {**_DELTA, "sequence_number": self.count, "sent_ns": sent_ns}
            if not isinstance(sent_ns, int) or not members.items() >= sent.items():
                raise Damaged("an event whose content differs from the one sent")
            self.count += 1
            self._latencies.append(now_ns - sent_ns)
        elif self._has_ended or members.get("type") != _COMPLETED["type"]:
            raise Damaged("an event that was not sent")
        else:
            _check(members.get("response"), _COMPLETED["response"])
            self._has_ended = True


class RewrittenResponse(StreamedResponse):
    """A streamed response, as rewritten by another server."""

    def __init__(self, events: int, latencies: Times) -> None:
        super().__init__(events, latencies)
        self.events = RewrittenEvents(events, latencies)


def _members(received: bytes) -> dict[str, Any]:
    try:
        members = json.loads(received)
    except ValueError:
        raise Damaged("data that is not JSON") from None
    if not isinstance(members, dict):
        raise Damaged("data that is not a JSON object")
    return members


def _check(said: Any, sent: Any) -> None:
    """Reject a response that lacks what matters to clients: its text and its usage."""
    try:
        is_same = _gist(said) == _gist(sent)
    except (KeyError, TypeError):
        is_same = False
    if not is_same:
        raise Damaged("a response whose content differs from the one sent")


def _gist(response: Any) -> object:
    usage = response["usage"]
    return (
        response["status"],
        [part["text"] for item in response["output"] for part in item["content"]],
        usage["input_tokens"],
        usage["input_tokens_details"]["cached_tokens"],
        usage["output_tokens"],
    )
