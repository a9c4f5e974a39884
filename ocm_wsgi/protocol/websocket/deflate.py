"""permessage-deflate: negotiated parameters, and decompression of messages. Pure; no I/O.

Source: RFC 7692 section 7.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ocm_wsgi.protocol.http.content_coding import DecodingError

EXTENSION = "permessage-deflate"

# The sender removes this from the end of a message (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
_LARGEST_WINDOW_BITS = 15
# How much is decompressed at a time, in octets: the most that a decompression bomb can make us hold.
_PIECE_BYTES = 64 * 1024

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110's token, not a secret
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})(?:\s*=\s*(?:({_TOKEN})|"({_TOKEN})"))?')
_EXTENSION_NAME = re.compile(rf"\s*({_TOKEN})")
_END = re.compile(r"\s*(?:,|$)")
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")


class UnsupportedExtensions(ValueError):
    """The negotiated extensions are not supported, so the frames cannot be read."""


@dataclass(frozen=True)
class DeflateParameters:
    """The negotiated parameters. A side with ``no_context_takeover`` resets its compression context for each message.

    :ivar server_max_window_bits: base-2 logarithm of the server's window, 8 to 15.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = _LARGEST_WINDOW_BITS
    client_max_window_bits: int = _LARGEST_WINDOW_BITS

    def server_inflater(self) -> Inflater:
        """Return an inflater for the server's messages."""
        return Inflater(self.server_max_window_bits, context_takeover=not self.server_no_context_takeover)

    def client_inflater(self) -> Inflater:
        """Return an inflater for the client's messages."""
        return Inflater(self.client_max_window_bits, context_takeover=not self.client_no_context_takeover)


def negotiated(value: str | None) -> DeflateParameters | None:
    """Return the parameters in the ``Sec-WebSocket-Extensions`` of an accepted handshake.

    :return: ``None`` if nothing was negotiated.
    :raises UnsupportedExtensions: the field has another extension, or parameters that section 7.1 does not define.
    """
    if value is None or not value.strip():
        return None
    name = _EXTENSION_NAME.match(value)
    if name is None or name[1].lower() != EXTENSION:
        raise UnsupportedExtensions("an extension other than permessage-deflate was negotiated")
    at = name.end()
    parameters: dict[str, bool | int] = {}
    while parameter := _PARAMETER.match(value, at):
        key = parameter[1].lower()
        if key in parameters:
            raise UnsupportedExtensions("a parameter of permessage-deflate is repeated")
        parameters[key] = _parameter_value(key, parameter[2] or parameter[3])
        at = parameter.end()
    end = _END.match(value, at)
    if end is None or end.end() != len(value):
        raise UnsupportedExtensions("more than permessage-deflate was negotiated")
    return DeflateParameters(**parameters)  # type: ignore[arg-type]  # each key has its own type of value


def _parameter_value(key: str, value: str | None) -> bool | int:
    if key in ("server_no_context_takeover", "client_no_context_takeover") and value is None:
        return True
    if key in ("server_max_window_bits", "client_max_window_bits") and value and _WINDOW_BITS.fullmatch(value):
        return int(value)
    raise UnsupportedExtensions("a parameter of permessage-deflate is unknown or has an invalid value")


class Inflater:
    """Decompresses the compressed messages of one direction, one after another.

    :param window_bits: base-2 logarithm of the window, 8 to 15; the window is held between messages.
    :ivar context_takeover: whether a message may refer to earlier ones. If so, none can be skipped.
    """

    def __init__(self, window_bits: int, *, context_takeover: bool) -> None:
        self.context_takeover = context_takeover
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(-window_bits) if context_takeover else None
        self._is_broken = False

    def feed(self, data: bytes, *, is_last: bool) -> Iterator[bytes]:
        """Yield the decompressed data of these octets of a message, in pieces of bounded size.

        Must be iterated to the end, unless the rest of the message is skipped (see ``context_takeover``).

        :param is_last: whether the message ends with ``data``.
        :raises DecodingError: this message or an earlier one is not compressed as negotiated. Every later call raises
            it, too.
        """
        if self._is_broken:
            raise DecodingError("An earlier message could not be decompressed.")
        if self._stream is None:
            self._stream = zlib.decompressobj(-self._window_bits)
        stream = self._stream
        pending = data + _TAIL if is_last else data
        while True:
            try:
                piece = stream.decompress(pending, _PIECE_BYTES)
            except zlib.error as exc:
                self._is_broken = True
                raise DecodingError("A message could not be decompressed.") from exc
            if piece:
                yield piece
            pending = stream.unconsumed_tail
            if not pending and len(piece) < _PIECE_BYTES:
                break
        if stream.eof:
            # A final block (section 7.2.3.4) ends zlib's stream, with its window. No peer is known to send one.
            self._is_broken = True
            raise DecodingError("A message has a final block, which ends the compressed stream.")
        if is_last and not self.context_takeover:
            self._stream = None

    def skip(self) -> None:
        """Skip the rest of the message. With ``context_takeover`` no later message can be read."""
        self._stream = None
        self._is_broken = self.context_takeover
