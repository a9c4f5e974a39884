"""Finds the event that ends a turn in a stream of Server-Sent Events, without parsing the others. Pure; no I/O.

The contract is that of :mod:`~ocm_wsgi.protocol.responses.observer`.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer, members_in_head
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.estimate import OutputMeter
from ocm_wsgi.protocol.responses.outcome import (
    TERMINAL_TYPES,
    TYPE_PATTERN,
    error_outcome,
    event_outcome,
    large_event,
    parse_json,
    type_prefix_pattern,
)
from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus, Usage
from ocm_wsgi.protocol.responses.usage import added, answer_usage, usage_of

# An event that names its type within this many octets is not buffered if the type does not matter.
_PREFIX_BYTES = 1024

# For an event of this size or more, checking the type at its beginning pays: the rest need not be searched.
_LARGE_BYTES = 2048

_LF, _CR = 10, 13
_NEWLINE = re.compile(rb"\r\n|\r|\n")
_BLANK_LINE = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r(?!\n)|\n)")
_FIRST_TYPE = re.compile(
    rb'(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:[ \t]*(?:%b([^"\\]+)")?' % type_prefix_pattern(space=rb"[ \t]*")
)
_RESPONSES_NEEDLE = re.compile(TYPE_PATTERN)
_CHAT_NEEDLES = (
    re.compile(rb'"usage"\s*:(?!\s*null)'),
    re.compile(rb'data:\s*(?:\[DONE\]|\{\s*"error")'),
)

# The events that report the usage of images, speech and transcription.
_MEDIA_TYPES: Mapping[str, TurnStatus] = {
    "image_generation.completed": "completed",
    "image_edit.completed": "completed",
    "speech.audio.done": "completed",
    "transcript.text.done": "completed",
}
_MEDIA_NEEDLE = re.compile(rb'"type"\s*:\s*"(?:%b|error)"' % "|".join(map(re.escape, _MEDIA_TYPES)).encode("ascii"))


class SseObserver:
    """For a stream of Server-Sent Events of the Responses API, of chat completions, or of an endpoint for media.

    Only an event whose octets look terminal is parsed. An event that is incomplete at the end of a read is buffered,
    unless its beginning names a type that is not terminal: then nothing is buffered, and its octets are skipped at the
    speed of ``memchr``. Each octet is examined a bounded number of times.

    The terminal events are ``response.completed``, ``.incomplete`` and ``.failed``; in chat completions ``[DONE]``, a
    chunk with usage and no choices, and an error; of speech and transcription the last event. An ``error`` event of the
    Responses API is not terminal, because Codex continues to read after it; ``finish`` returns it if no terminal event
    follows. A stream of images has an event for each image, and ends as its framing says.

    :param family: how the endpoint reports usage.
    :param limit: of a larger terminal event, only the ends are read.
    """

    def __init__(self, family: Family = "responses", *, limit: int = BUFFER_LIMIT_BYTES) -> None:
        self._family: Family = family
        self._needles: Sequence[re.Pattern[bytes]] = (_RESPONSES_NEEDLE,)
        self._read_data: Callable[[bytes], Outcome | None] = self._read_event
        self._types: Mapping[str, TurnStatus] = TERMINAL_TYPES
        if family in ("chat", "completions"):
            self._needles, self._read_data = _CHAT_NEEDLES, self._read_chunk
        elif family in ("images", "speech", "transcription"):
            self._needles, self._read_data, self._types = (_MEDIA_NEEDLE,), self._read_media_event, _MEDIA_TYPES
        self._limit = limit
        self._open: _OpenEvent | None = None
        self._outcome: Outcome | None = None
        self._so_far = Outcome("cut")
        self._meter = OutputMeter(is_chat=family in ("chat", "completions"))

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        """Observe one read; see the observers' contract."""
        if self._outcome is not None or not data:
            return len(data), None
        self._meter.feed(data)
        start = 0
        if self._open is not None:
            start = self._open.end_in(data)
            if start < 0:
                self._open.extend(data)
                return len(data), None
            self._open.extend(data[:start])
            self._outcome = self._close_event()
            if self._outcome is not None:
                return 0, self._outcome
        return self._scan(data, start)

    def finish(self, *, complete: bool = True) -> Outcome:
        """Return how the turn ended. Counts the usage in an incomplete terminal event, which clients discard."""
        if self._outcome is not None:
            return self._outcome
        ending = self._close_event() if self._open is not None else None
        return replace(ending, status="cut") if ending is not None else self._so_far

    def output_tokens(self) -> int:
        """Return an estimate of the output so far; see the observers' contract."""
        return self._meter.tokens()

    def _scan(self, data: bytes, start: int) -> tuple[int, Outcome | None]:
        """Examine the events that begin in ``data`` at ``start`` or later."""
        if len(data) - start > _LARGE_BYTES:
            start = self._after_large_events(data, start)
        for needle in self._needles:
            if needle.search(data, start):
                return self._read_candidates(data, start)
        if not data.endswith(b"\n\n"):
            self._buffer_incomplete(data, start)
        return len(data), None

    def _after_large_events(self, data: bytes, start: int) -> int:
        """Return where the first event starts that is not complete, not large, or may be terminal."""
        while len(data) - start > _LARGE_BYTES and _is_other(
            _first_type(data[start : start + _PREFIX_BYTES]), self._types
        ):
            end = _event_end(data, start)
            if end - start < _LARGE_BYTES:
                break
            start = end
        return start

    def _read_candidates(self, data: bytes, start: int) -> tuple[int, Outcome | None]:
        for hit in self._hits(data, start):
            if hit < start:
                continue  # within an event that was already parsed
            event_start = _event_start(data, start, hit)
            event_end = _event_end(data, hit)
            if event_end < 0:
                break
            self._outcome = self._read_data(_data_of(data[event_start:event_end]))
            if self._outcome is not None:
                return event_start, self._outcome
            start = event_end
        if not data.endswith(b"\n\n"):
            self._buffer_incomplete(data, start)
        return len(data), None

    def _hits(self, data: bytes, start: int) -> Iterator[int]:
        """Yield the positions of events that may be terminal, in order. Each octet is searched once per needle."""
        hits = [(hit.start() for hit in needle.finditer(data, start)) for needle in self._needles]
        return hits[0] if len(hits) == 1 else heapq.merge(*hits)

    def _buffer_incomplete(self, data: bytes, start: int) -> None:
        """Buffer the event at the end of ``data``, which is incomplete unless its lines end with carriage returns."""
        event_start = _event_start(data, start, len(data))
        if event_start < len(data):
            self._open = _OpenEvent(self._types, self._limit)
            self._open.extend(data[event_start:])

    def _close_event(self) -> Outcome | None:
        event, self._open = self._open, None
        if event is None or event.is_skipped:
            return None
        if not event.buffer.is_quick_to_parse:
            return self._read_large(event)
        if any(needle.search(event.buffer.octets) for needle in self._needles):
            return self._read_data(_data_of(event.buffer.octets))
        return None

    def _read_large(self, event: _OpenEvent) -> Outcome | None:
        """Read the ends of an event that would take too long to parse."""
        head = _data_of(event.buffer.first_octets())
        if self._types is TERMINAL_TYPES:
            return event_outcome(large_event(event.buffer, head=head))
        members = event.buffer.with_usage(members_in_head(head))
        type_ = members.get("type")
        return self._media_outcome(members, type_) if isinstance(type_, str) and type_ in self._types else None

    def _read_event(self, data: bytes) -> Outcome | None:
        outcome = event_outcome(parse_json(data))
        if outcome is not None and outcome.status == "error":
            self._so_far = outcome
            return None
        return outcome

    def _read_media_event(self, data: bytes) -> Outcome | None:
        event = parse_json(data)
        type_ = event.get("type") if isinstance(event, dict) else None
        if type_ == "error":
            self._so_far = replace(error_outcome(event), usage=self._so_far.usage)
        if not isinstance(type_, str) or type_ not in self._types:
            return None
        return self._media_outcome(event, type_)

    def _media_outcome(self, event: Mapping[str, Any], type_: str) -> Outcome | None:
        usage = answer_usage(event, self._family)
        if self._family != "images":
            return Outcome(self._types[type_], usage=usage)
        image = Usage(0, 0, 0, items=1)
        known = [each for each in (self._so_far.usage, usage, image) if each is not None]
        self._so_far = Outcome(self._types[type_], usage=added(*known))
        return None

    def _read_chunk(self, data: bytes) -> Outcome | None:
        if data.strip() == b"[DONE]":
            return replace(self._so_far, status="completed")
        chunk = parse_json(data)
        if not isinstance(chunk, dict):
            return None
        if chunk.get("error"):
            return replace(error_outcome(chunk), usage=self._so_far.usage, model=self._so_far.model)
        usage = usage_of(chunk.get("usage"))
        if usage is None:
            return None
        self._so_far = replace(
            self._so_far,
            usage=usage,
            model=label(chunk.get("model")),
            service_tier=label(chunk.get("service_tier")),
        )
        return None if chunk.get("choices") else replace(self._so_far, status="completed")


class _OpenEvent:
    """An event whose end has not arrived yet.

    :param types: of the events that matter.
    :ivar type: the type that its beginning names, or ``""`` if it names none, or none yet.
    :ivar is_skipped: whether it is known not to be terminal; nothing of it is buffered then.
    """

    def __init__(self, types: Mapping[str, TurnStatus], limit: int) -> None:
        self.type = ""
        self._types = types
        self.is_skipped = False
        self.buffer = BoundedBuffer(limit)
        self._is_undecided = True
        self._last_octet = 0

    def end_in(self, data: bytes) -> int:
        """Return where this event ends in the next read, or -1."""
        return _event_end(data, 0, after=self._last_octet)

    def extend(self, data: bytes) -> None:
        if data:
            self._last_octet = data[-1]
        if self._is_undecided:
            self._decide(bytes(self.buffer.octets[:_PREFIX_BYTES]) + data[:_PREFIX_BYTES])
        if self.is_skipped:
            return
        self.buffer.append(data)
        if self.buffer.overflowed and not self.type:
            self._skip()

    def _decide(self, head: bytes) -> None:
        type_ = _first_type(head)
        self._is_undecided = not type_ and len(head) < _PREFIX_BYTES
        if _is_other(type_, self._types):
            self._skip()
        elif type_ in self._types:
            self.type = type_

    def _skip(self) -> None:
        self.is_skipped = True
        self.buffer.octets.clear()


def _first_type(head: bytes) -> str:
    """Return the type that the beginning of an event names, or ``""`` if it names none, or none yet."""
    found = _FIRST_TYPE.search(head, 0, _PREFIX_BYTES)
    return found[1].decode("ascii", "replace") if found and found[1] else ""


def _is_other(type_: str, types: Mapping[str, TurnStatus]) -> bool:
    """Return whether an event of this type is known not to end a turn."""
    return bool(type_) and type_ not in types and type_ != "error"


def _event_end(data: bytes, start: int, *, after: int = 0) -> int:
    """Return where the event that continues at ``start`` ends, after its blank line; -1 if that is not in ``data``.

    :param after: the octet before ``start``, if it belongs to the same event.
    """
    if after == _CR and data.startswith(b"\n", start):
        start, after = start + 1, _LF
    if after in (_LF, _CR) and (newline := _NEWLINE.match(data, start)):
        return newline.end()
    end = _line_feeds_end(data, start)
    if data.find(b"\r", start, end if end >= 0 else len(data)) < 0:
        return end
    blank = _BLANK_LINE.search(data, start)
    return blank.end() if blank else -1


def _line_feeds_end(data: bytes, start: int) -> int:
    """Return where the first two consecutive line feeds end, or -1."""
    # Line feeds are rare in JSON events, so jumping from one to the next is faster than searching for two.
    at = data.find(b"\n", start)
    while at >= 0 and not data.startswith(b"\n", at + 1):
        at = data.find(b"\n", at + 1)
    return at + 2 if at >= 0 else -1


def _event_start(data: bytes, start: int, stop: int) -> int:
    """Return where the last event in ``data[start:stop]`` starts: after the last blank line, else at ``start``."""
    if data.find(b"\r", start, stop) >= 0:
        ends = [blank.end() for blank in _BLANK_LINE.finditer(data, start, stop)]
        return ends[-1] if ends else start
    at = data.rfind(b"\n\n", start, stop)
    return at + 2 if at >= 0 else start


def _data_of(event: bytes | bytearray) -> bytes:
    """Return the ``data`` of an event, from its raw lines."""
    lines = bytes(event).removeprefix(b"\xef\xbb\xbf").splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
