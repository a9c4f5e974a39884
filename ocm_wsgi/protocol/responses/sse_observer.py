"""Finds the event that ends a turn in a stream of Server-Sent Events, without parsing the others. Pure; no I/O.

The contract is that of :mod:`~ocm_wsgi.protocol.responses.observer`.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer
from ocm_wsgi.protocol.responses.error_codes import label
from ocm_wsgi.protocol.responses.outcome import (
    TERMINAL_TYPES,
    TYPE_PATTERN,
    error_outcome,
    event_outcome,
    parse_json,
    type_prefix_pattern,
    usage_of,
)
from ocm_wsgi.protocol.responses.turn import Outcome

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
_RESPONSES_NEEDLES = (re.compile(TYPE_PATTERN),)
_CHAT_NEEDLES = (
    re.compile(rb'"usage"\s*:(?!\s*null)'),
    re.compile(rb'data:\s*(?:\[DONE\]|\{\s*"error")'),
)


class SseObserver:
    """For a stream of Server-Sent Events of the Responses API or, with ``chat``, of chat completions.

    Only an event whose octets look terminal is parsed. An event that is incomplete at the end of a read is buffered,
    unless its beginning names a type that is not terminal: then nothing is buffered, and its octets are skipped at the
    speed of ``memchr``. Each octet is examined a bounded number of times.

    The terminal events are ``response.completed``, ``.incomplete`` and ``.failed``; in chat completions ``[DONE]``, a
    chunk with usage and no choices, and an error. An ``error`` event of the Responses API is not terminal, because
    Codex continues to read after it; ``finish`` returns it if no terminal event follows.

    :param limit: a larger terminal event is recognised by the type at its beginning and the usage in its tail.
    """

    def __init__(self, *, chat: bool = False, limit: int = BUFFER_LIMIT_BYTES) -> None:
        self._needles: Sequence[re.Pattern[bytes]] = _CHAT_NEEDLES if chat else _RESPONSES_NEEDLES
        self._read_data: Callable[[bytes], Outcome | None] = self._read_chunk if chat else self._read_event
        self._limit = limit
        self._open: _OpenEvent | None = None
        self._outcome: Outcome | None = None
        self._so_far = Outcome("cut")

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        """Observe one read; see the observers' contract."""
        if self._outcome is not None or not data:
            return len(data), None
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

    def _scan(self, data: bytes, start: int) -> tuple[int, Outcome | None]:
        """Examine the events that begin in ``data`` at ``start`` or later."""
        if len(data) - start > _LARGE_BYTES:
            start = _after_large_events(data, start)
        for needle in self._needles:
            if needle.search(data, start):
                return self._read_candidates(data, start)
        self._buffer_incomplete(data, start)
        return len(data), None

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
        self._buffer_incomplete(data, start)
        return len(data), None

    def _hits(self, data: bytes, start: int) -> Iterator[int]:
        """Yield the positions of events that may be terminal, in order. Each octet is searched once per needle."""
        return heapq.merge(*((hit.start() for hit in needle.finditer(data, start)) for needle in self._needles))

    def _buffer_incomplete(self, data: bytes, start: int) -> None:
        """Buffer the event at the end of ``data`` if it is incomplete."""
        if data.endswith(b"\n\n"):
            return
        event_start = _event_start(data, start, len(data))
        if event_start < len(data):
            self._open = _OpenEvent(self._limit)
            self._open.extend(data[event_start:])

    def _close_event(self) -> Outcome | None:
        event, self._open = self._open, None
        if event is None or event.is_skipped:
            return None
        if event.buffer.overflowed:
            return Outcome(TERMINAL_TYPES[event.type], usage=event.buffer.usage_in_tail())
        if any(needle.search(event.buffer.octets) for needle in self._needles):
            return self._read_data(_data_of(event.buffer.octets))
        return None

    def _read_event(self, data: bytes) -> Outcome | None:
        outcome = event_outcome(parse_json(data))
        if outcome is not None and outcome.status == "error":
            self._so_far = outcome
            return None
        return outcome

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

    :ivar type: the type that its beginning names, or ``""`` if it names none, or none yet.
    :ivar is_skipped: whether it is known not to be terminal; nothing of it is buffered then.
    """

    def __init__(self, limit: int) -> None:
        self.type = ""
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
        if _is_other(type_):
            self._skip()
        elif type_ in TERMINAL_TYPES:
            self.type = type_

    def _skip(self) -> None:
        self.is_skipped = True
        self.buffer.octets.clear()


def _first_type(head: bytes) -> str:
    """Return the type that the beginning of an event names, or ``""`` if it names none, or none yet."""
    found = _FIRST_TYPE.search(head, 0, _PREFIX_BYTES)
    return found[1].decode("ascii", "replace") if found and found[1] else ""


def _is_other(type_: str) -> bool:
    """Return whether an event of this type is known not to end a turn."""
    return bool(type_) and type_ not in TERMINAL_TYPES and type_ != "error"


def _after_large_events(data: bytes, start: int) -> int:
    """Return where the first event starts that is not complete, not large, or may be terminal."""
    while len(data) - start > _LARGE_BYTES and _is_other(_first_type(data[start : start + _PREFIX_BYTES])):
        end = _event_end(data, start)
        if end - start < _LARGE_BYTES:
            break
        start = end
    return start


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
