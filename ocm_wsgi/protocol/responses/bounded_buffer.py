"""A buffer of bounded size, from whose tail usage can be read even after it has overflowed. Pure; no I/O."""

from __future__ import annotations

import json
import re

from ocm_wsgi.protocol.responses.outcome import usage_of
from ocm_wsgi.protocol.responses.turn import Usage

#: A JSON body, or an event that may be terminal, is buffered up to this size. Of a larger one only the tail is.
BUFFER_LIMIT_BYTES = 64 * 1024 * 1024
_TAIL_BYTES = 256 * 1024

_USAGE_KEY = re.compile(r'"usage"\s*:\s*(?=\{)')


class BoundedBuffer:
    """Buffers octets up to a limit, and beyond it only the tail.

    :param limit: in octets.
    :ivar overflowed: whether ``octets`` is only the tail.
    """

    def __init__(self, limit: int) -> None:
        self.octets = bytearray()
        self.overflowed = False
        self._limit = limit

    def append(self, data: bytes) -> None:
        self.octets += data
        if len(self.octets) > (2 * _TAIL_BYTES if self.overflowed else self._limit):
            self.overflowed = True
            del self.octets[:-_TAIL_BYTES]

    def usage_in_tail(self) -> Usage | None:
        """Return the last usage object in the tail of a document too large to parse; OpenAI puts it near the end."""
        text = self.octets.decode("utf-8", "replace")
        position = max((key.end() for key in _USAGE_KEY.finditer(text)), default=-1)
        if position < 0:
            return None
        try:
            usage, _ = json.JSONDecoder().raw_decode(text, position)
        except (ValueError, RecursionError):
            return None
        return usage_of(usage)
