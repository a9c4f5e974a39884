"""Server-Sent Events, decoded as the WHATWG HTML standard says. Pure; no I/O.

For who shows events: the demo's client, tests, pages. The relay does not decode; see ``observer``.

Source: HTML Living Standard, section 9.2.6, "Interpreting an event stream".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event exceeds the bound that the decoder was given. The decoder is of no further use."""


@dataclass(frozen=True)
class Event:
    """One dispatched event.

    :ivar type: of the ``event`` field; ``message`` when there is none.
    :ivar data: the ``data`` fields, joined by line feeds.
    :ivar last_event_id: the last ``id`` seen so far in the stream, or ``""``.
    """

    type: str
    data: str
    last_event_id: str = ""


class EventDecoder:
    """Decode a stream that is fed in pieces, cut anywhere, also inside a character or a CRLF.

    :param max_event_bytes: bound of what one unfinished event may hold, or ``None`` for no bound.
    :ivar retry_ms: the last ``retry`` seen, in milliseconds, or ``None``.
    """

    def __init__(self, *, max_event_bytes: int | None = None) -> None:
        self.retry_ms: int | None = None
        self._max_event_bytes = max_event_bytes
        self._partial_line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._type = ""
        self._data: list[str] = []
        self._data_bytes = 0
        self._last_event_id = ""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these octets complete.

        :raises EventTooLarge: the unfinished event has outgrown ``max_event_bytes``.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            # The line ends here already. A line feed that may follow is the rest of the same line end.
            self._after_cr = True
        first, *others = _LINE_END.split(data)
        self._partial_line += first
        events = []
        for piece in others:
            if event := self._line(bytes(self._partial_line)):
                events.append(event)
            self._partial_line = bytearray(piece)
        self._check_bound()
        return events

    def flush(self) -> bool:
        """End the stream. An unfinished event is discarded, as the standard says.

        :return: whether one was: the stream was cut inside an event.
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
            self._check_bound()
        elif name == b"event":
            self._type = value
        elif name == b"id" and "\0" not in value:
            self._last_event_id = value
        elif name == b"retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)

    def _dispatch(self) -> Event | None:
        event = Event(self._type or "message", "\n".join(self._data), self._last_event_id) if self._data else None
        self._reset_event()
        return event

    def _reset_event(self) -> None:
        self._type = ""
        self._data = []
        self._data_bytes = 0

    def _check_bound(self) -> None:
        if self._max_event_bytes is not None and self._data_bytes + len(self._partial_line) > self._max_event_bytes:
            raise EventTooLarge(f"An event exceeds {self._max_event_bytes} bytes.")
