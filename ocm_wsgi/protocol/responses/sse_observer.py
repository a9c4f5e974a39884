"""Find the event that ends a turn in a stream of Server-Sent Events, without parsing the others. Pure; no I/O.

The contract is that of ``observer``.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ocm_wsgi.protocol.responses.bounded_buffer import BUFFER_LIMIT_BYTES, BoundedBuffer
from ocm_wsgi.protocol.responses.outcome import (
    TERMINAL_TYPES,
    TYPE_PATTERN,
    error_outcome,
    event_outcome,
    label,
    parse_json,
    usage_of,
)
from ocm_wsgi.protocol.responses.turn import Outcome

#: Within so many octets an event must name its type, if that is to spare us keeping it.
_HEAD_BYTES = 1024

#: An event of this size is worth a look at its first words, which spares us searching the rest.
_LARGE_BYTES = 2048

_LF, _CR = 10, 13
_NEWLINE = re.compile(rb"\r\n|\r|\n")
_BLANK_LINE = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r(?!\n)|\n)")
_FIRST_TYPE = re.compile(
    rb'(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:[ \t]*(?:\{[ \t]*"type"[ \t]*:[ \t]*"([^"\\]+)")?',
)
_RESPONSES_NEEDLES = (re.compile(TYPE_PATTERN),)
_CHAT_NEEDLES = (
    re.compile(rb'"usage"\s*:(?!\s*null)'),
    re.compile(rb'data:\s*(?:\[DONE\]|\{\s*"error")'),
)


class SseObserver:
    """For a stream of Server-Sent Events, of the Responses API or (``chat``) of chat completions.

    Only an event whose raw bytes look terminal is parsed. An event that is not complete at the end of a read is
    kept, unless its first words name a type that is not terminal: then none of it is, and its bytes are passed over
    at the speed of ``memchr``. Each octet is looked at a bounded number of times.

    Terminal are ``response.completed``, ``.incomplete`` and ``.failed``; in chat completions ``[DONE]``, a chunk with
    usage and no choices, and an error. An ``error`` event of the Responses API is not, as Codex reads on after it;
    it is told by ``finish`` when nothing better came.

    :param limit: a terminal event larger than this is known by the type at its beginning and the usage in its tail.
    """

    def __init__(self, *, chat: bool = False, limit: int = BUFFER_LIMIT_BYTES) -> None:
        self._needles: Sequence[re.Pattern[bytes]] = _CHAT_NEEDLES if chat else _RESPONSES_NEEDLES
        self._read_data: Callable[[bytes], Outcome | None] = self._read_chunk if chat else self._read_event
        self._limit = limit
        self._open: _OpenEvent | None = None
        self._outcome: Outcome | None = None
        self._so_far = Outcome("cut")

    def feed(self, data: bytes) -> tuple[int, Outcome | None]:
        """Observe what upstream sent; see the module for what is returned."""
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

    def finish(self, *, whole: bool = True) -> Outcome:
        """How the turn ended. What an unfinished terminal event tells of usage is told, though clients discard it."""
        if self._outcome is not None:
            return self._outcome
        ending = self._close_event() if self._open is not None else None
        return replace(ending, status="cut") if ending is not None else self._so_far

    def _scan(self, data: bytes, start: int) -> tuple[int, Outcome | None]:
        """Go through the events that begin in ``data`` at ``start`` or later."""
        if len(data) - start > _LARGE_BYTES:
            start = _behind_large_events(data, start)
        for needle in self._needles:
            if needle.search(data, start):
                return self._read_candidates(data, start)
        self._keep_rest(data, start)
        return len(data), None

    def _read_candidates(self, data: bytes, start: int) -> tuple[int, Outcome | None]:
        for hit in self._hits(data, start):
            if hit < start:
                continue  # within an event that has been read already
            event_start = _event_start(data, start, hit)
            event_end = _event_end(data, hit)
            if event_end < 0:
                break
            self._outcome = self._read_data(_data_of(data[event_start:event_end]))
            if self._outcome is not None:
                return event_start, self._outcome
            start = event_end
        self._keep_rest(data, start)
        return len(data), None

    def _hits(self, data: bytes, start: int) -> Iterator[int]:
        """Where the events that may be terminal are, in order. Each octet is searched once for each needle."""
        return heapq.merge(*((hit.start() for hit in needle.finditer(data, start)) for needle in self._needles))

    def _keep_rest(self, data: bytes, start: int) -> None:
        """Open the event that ``data`` ends with, if it is not complete."""
        if data.endswith(b"\n\n"):
            return
        rest = _event_start(data, start, len(data))
        if rest < len(data):
            self._open = _OpenEvent(self._limit)
            self._open.extend(data[rest:])

    def _close_event(self) -> Outcome | None:
        event, self._open = self._open, None
        if event is None or event.passed_over:
            return None
        if event.kept.overflowed:
            return Outcome(TERMINAL_TYPES[event.type], usage=event.kept.usage_in_tail())
        if any(needle.search(event.kept.octets) for needle in self._needles):
            return self._read_data(_data_of(event.kept.octets))
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
            response_id=label(chunk.get("id")),
        )
        return None if chunk.get("choices") else replace(self._so_far, status="completed")


class _OpenEvent:
    """An event whose end has not come yet.

    :ivar type: as its first words name it, or ``""`` when they do not, or not yet.
    :ivar passed_over: known not to be terminal; nothing of it is kept.
    """

    def __init__(self, limit: int) -> None:
        self.type = ""
        self.passed_over = False
        self.kept = BoundedBuffer(limit)
        self._undecided = True
        self._last = 0

    def end_in(self, data: bytes) -> int:
        """Where this event ends in the octets that follow it, or -1."""
        return _event_end(data, 0, after=self._last)

    def extend(self, data: bytes) -> None:
        if data:
            self._last = data[-1]
        if self._undecided:
            self._decide(bytes(self.kept.octets[:_HEAD_BYTES]) + data[:_HEAD_BYTES])
        if self.passed_over:
            return
        self.kept.append(data)
        if self.kept.overflowed and not self.type:
            self._pass_over()

    def _decide(self, head: bytes) -> None:
        type_ = _first_type(head)
        self._undecided = not type_ and len(head) < _HEAD_BYTES
        if _is_other(type_):
            self._pass_over()
        elif type_ in TERMINAL_TYPES:
            self.type = type_

    def _pass_over(self) -> None:
        self.passed_over = True
        self.kept.octets.clear()


def _first_type(head: bytes) -> str:
    """The type that an event's first words name, or ``""`` when they do not, or not yet."""
    found = _FIRST_TYPE.search(head, 0, _HEAD_BYTES)
    return found[1].decode("ascii", "replace") if found and found[1] else ""


def _is_other(type_: str) -> bool:
    """Whether an event of this type is known to end nothing."""
    return bool(type_) and type_ not in TERMINAL_TYPES and type_ != "error"


def _behind_large_events(data: bytes, start: int) -> int:
    """Where the first event starts that is not a large one of another type, or not a complete one."""
    while len(data) - start > _LARGE_BYTES and _is_other(_first_type(data[start : start + _HEAD_BYTES])):
        end = _event_end(data, start)
        if end - start < _LARGE_BYTES:
            break
        start = end
    return start


def _event_end(data: bytes, start: int, *, after: int = 0) -> int:
    """Where the event that goes on at ``start`` ends, behind its blank line; -1 when that is not in ``data``.

    :param after: the octet before ``start``, where it belongs to the same event.
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
    """Where two line feeds in a row end, or -1."""
    # Line ends are rare in events of JSON, so jumping from one to the next is faster than looking for two.
    at = data.find(b"\n", start)
    while at >= 0 and not data.startswith(b"\n", at + 1):
        at = data.find(b"\n", at + 1)
    return at + 2 if at >= 0 else -1


def _event_start(data: bytes, start: int, stop: int) -> int:
    """Where the last event in ``data[start:stop]`` starts: behind the last blank line, else at ``start``."""
    if data.find(b"\r", start, stop) >= 0:
        ends = [blank.end() for blank in _BLANK_LINE.finditer(data, start, stop)]
        return ends[-1] if ends else start
    at = data.rfind(b"\n\n", start, stop)
    return at + 2 if at >= 0 else start


def _data_of(event: bytes | bytearray) -> bytes:
    """The ``data`` of an event's raw lines."""
    lines = bytes(event).removeprefix(b"\xef\xbb\xbf").splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
