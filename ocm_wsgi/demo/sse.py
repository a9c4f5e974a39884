"""A decoder of Server-Sent Events as specified by the WHATWG HTML standard. Pure; no I/O.

For clients that show events: the demo and tests. The relay does not decode events; see
:mod:`ocm_wsgi.protocol.responses.sse_observer`.

Source: HTML Living Standard, section 9.2.6, "Interpreting an event stream".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event exceeds the decoder's limit. The decoder is unusable afterwards."""


@dataclass(frozen=True)
class Event:
    """One dispatched event.

    :ivar type: the value of the ``event`` field, or ``message`` without one.
    :ivar data: the ``data`` fields, joined by line feeds.
    """

    type: str
    data: str


class EventDecoder:
    """Decodes a stream fed in pieces that may end anywhere, even inside a character or a CRLF.

    Ignores ``id`` and ``retry``, as no client here reconnects.

    :param max_event_bytes: the maximum size of one unfinished event, or ``None`` for no limit.
    """

    def __init__(self, *, max_event_bytes: int | None = None) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial_line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._type = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        :raises EventTooLarge: the unfinished event exceeds ``max_event_bytes``.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            # The line ends here. A line feed that follows belongs to the same line end.
            self._after_cr = True
        first, *others = _LINE_END.split(data)
        self._partial_line += first
        events = []
        for piece in others:
            if event := self._line(bytes(self._partial_line)):
                events.append(event)
            self._partial_line = bytearray(piece)
        self._check_size()
        return events

    def flush(self) -> bool:
        """End the stream. An unfinished event is discarded, as the standard requires.

        :return: whether the stream ended inside an event.
        """
        unfinished = bool(self._partial_line or self._data)
        self._partial_line.clear()
        self._reset_event()
        return unfinished

    def _line(self, line: bytes) -> Event | None:
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        self._field(name, value.removeprefix(b" ").decode("utf-8", "replace"), len(value))
        return None

    def _field(self, name: bytes, value: str, size: int) -> None:
        if name == b"data":
            self._data.append(value)
            self._data_bytes += size
            self._check_size()
        elif name == b"event":
            self._type = value

    def _dispatch(self) -> Event | None:
        event = Event(self._type or "message", "\n".join(self._data)) if self._data else None
        self._reset_event()
        return event

    def _reset_event(self) -> None:
        self._type = ""
        self._data = []
        self._data_bytes = 0

    def _check_size(self) -> None:
        if self._max_event_bytes is not None and self._data_bytes + len(self._partial_line) > self._max_event_bytes:
            raise EventTooLarge(f"An event exceeds {self._max_event_bytes} bytes.")
