"""permessage-deflate: what was negotiated, and a copy of the messages decompressed. Pure; no I/O.

Source: RFC 7692 section 7.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError

EXTENSION = "permessage-deflate"

#: What the sender of a message leaves off its end (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
_LARGEST_WINDOW_BITS = 15
#: So much is decompressed at once, in octets: what a bomb can make us hold.
_PIECE_BYTES = 64 * 1024

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110's token, no secret
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})(?:\s*=\s*(?:({_TOKEN})|"({_TOKEN})"))?')
_EXTENSION_NAME = re.compile(rf"\s*({_TOKEN})")
_END = re.compile(r"\s*(?:,|$)")
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")


class UnsupportedExtensions(ValueError):
    """Extensions were negotiated that the frames cannot be read with."""


@dataclass(frozen=True)
class DeflateParameters:
    """What client and server agreed upon. A ``no_context_takeover`` side starts each message afresh.

    :ivar server_max_window_bits: base 2 logarithm of the server's window, 8 to 15.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = _LARGEST_WINDOW_BITS
    client_max_window_bits: int = _LARGEST_WINDOW_BITS

    def server_inflater(self) -> Inflater:
        """For what the server sends."""
        return Inflater(self.server_max_window_bits, context_takeover=not self.server_no_context_takeover)

    def client_inflater(self) -> Inflater:
        """For what the client sends."""
        return Inflater(self.client_max_window_bits, context_takeover=not self.client_no_context_takeover)


def negotiated(value: str | None) -> DeflateParameters | None:
    """Read the ``Sec-WebSocket-Extensions`` of an accepting answer.

    :return: ``None`` when nothing was negotiated.
    :raises UnsupportedExtensions: it holds another extension, or parameters that section 7.1 does not know.
    """
    if value is None or not value.strip():
        return None
    name = _EXTENSION_NAME.match(value)
    if name is None or name[1].lower() != EXTENSION:
        raise UnsupportedExtensions("an extension other than permessage-deflate was negotiated")
    at = name.end()
    settings: dict[str, bool | int] = {}
    while parameter := _PARAMETER.match(value, at):
        key = parameter[1].lower()
        if key in settings:
            raise UnsupportedExtensions("a parameter of permessage-deflate is repeated")
        settings[key] = _setting(key, parameter[2] or parameter[3])
        at = parameter.end()
    end = _END.match(value, at)
    if end is None or end.end() != len(value):
        raise UnsupportedExtensions("more than permessage-deflate was negotiated")
    return DeflateParameters(**settings)  # type: ignore[arg-type]  # each key has a value of its own type


def _setting(key: str, value: str | None) -> bool | int:
    if key in ("server_no_context_takeover", "client_no_context_takeover") and value is None:
        return True
    if key in ("server_max_window_bits", "client_max_window_bits") and value and _WINDOW_BITS.fullmatch(value):
        return int(value)
    raise UnsupportedExtensions("a parameter of permessage-deflate is unknown or has no good value")


class Inflater:
    """Decompresses the compressed messages of one direction, one after another.

    :param window_bits: base 2 logarithm of the window, 8 to 15; the window is what is held between messages.
    :ivar context_takeover: whether a message may refer to the ones before it. If so none can be left out.
    """

    def __init__(self, window_bits: int, *, context_takeover: bool) -> None:
        self.context_takeover = context_takeover
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(-window_bits) if context_takeover else None
        self._is_broken = False

    def feed(self, data: bytes, *, is_last: bool) -> Iterator[bytes]:
        """Yield what these octets of a message decompress to, in pieces of bounded size.

        Must be iterated over to its end, unless the rest of the message is left out (see ``context_takeover``).

        :param is_last: whether the message ends with them.
        :raises DecodingError: it is not compressed as agreed, or an earlier one was not. It stays like that.
        """
        if self._is_broken:
            raise DecodingError("An earlier message could not be decompressed.")
        if self._stream is None:
            self._stream = zlib.decompressobj(-self._window_bits)
        stream = self._stream
        waiting = data + _TAIL if is_last else data
        while True:
            try:
                piece = stream.decompress(waiting, _PIECE_BYTES)
            except zlib.error as exc:
                self._is_broken = True
                raise DecodingError("A message could not be decompressed.") from exc
            if piece:
                yield piece
            waiting = stream.unconsumed_tail
            if not waiting and len(piece) < _PIECE_BYTES:
                break
        if stream.eof:
            # A final block (section 7.2.3.4) ends zlib's stream, with its window. No peer is known to send one.
            self._is_broken = True
            raise DecodingError("A message ends its compression for good.")
        if is_last and not self.context_takeover:
            self._stream = None

    def skip(self) -> None:
        """Leave the rest of the message out. Where the next one may refer to it, none can be read any more."""
        self._stream = None
        self._is_broken = self.context_takeover
