"""What an observer keeps of a document that it may have to parse: bounded, useful beyond its bound. Pure; no I/O."""

from __future__ import annotations

import json
import re

from ocm_wsgi.protocol.responses.outcome import usage_of
from ocm_wsgi.protocol.responses.turn import Usage

#: What may be a terminal event, or a JSON body, is kept up to this size. Of a larger one only the tail is.
BUFFER_LIMIT_BYTES = 64 * 1024 * 1024
_TAIL_BYTES = 256 * 1024

_USAGE_KEY = re.compile(r'"usage"\s*:\s*(?=\{)')


class BoundedBuffer:
    """Octets that are kept whole up to a limit; beyond it, only their tail.

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
        """The last usage object in what is left of a document too large to parse. It stands near the end."""
        text = self.octets.decode("utf-8", "replace")
        position = max((key.end() for key in _USAGE_KEY.finditer(text)), default=-1)
        if position < 0:
            return None
        try:
            usage, _ = json.JSONDecoder().raw_decode(text, position)
        except (ValueError, RecursionError):
            return None
        return usage_of(usage)
