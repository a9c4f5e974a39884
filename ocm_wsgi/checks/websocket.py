"""A WebSocket through the public address to OpenAI and back: opened, a ping answered, closed. Asks for no turn.

Source: RFC 6455 sections 4.1, 5.5 and 7.1.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse

from ocm_wsgi.protocol.websocket.frames import CLOSE, PING, PONG, FrameParser, unmask

TARGET = "/ocm/v1/check/websocket"
# As long as Codex waits for the answer to its opening handshake.
TIMEOUT_SECONDS = 15.0

# RFC 6455 section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")
_FIN, _MASKED = 0x80, 0x80
_READ_SIZE = 65536
_LONGEST_MESSAGE = 200


class Declined(Exception):
    """The opening handshake was answered with something else than yes.

    :ivar message: what the answer says of it, or ``""``.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status = status


class Broken(Exception):
    """It was opened, and does not work; the message says what is wrong."""


def try_out(connection: HTTPConnection, authorization: Mapping[str, str]) -> None:
    """Open a WebSocket, have a ping answered by OpenAI, and close it.

    :param connection: is of no use afterwards; the caller closes it.
    :raises Declined: it does not open.
    :raises Broken: it opens, and frames do not pass.
    :raises OSError, http.client.HTTPException: there was no answer at all.
    """
    response = _opened(connection, authorization)
    parser = FrameParser(masked=False, compressible=False)
    try:
        connection.sock.sendall(_frame(PING, b"ocm"))
        _wait_for(PONG, response, parser)
    except OSError as exc:
        raise Broken("no frame comes back") from exc
    # All is known by now: how the other side says goodbye does not matter.
    with contextlib.suppress(OSError, Broken):
        connection.sock.sendall(_frame(CLOSE, _NORMAL_CLOSURE))
        _wait_for(CLOSE, response, parser)


def _opened(connection: HTTPConnection, authorization: Mapping[str, str]) -> HTTPResponse:
    key = base64.b64encode(secrets.token_bytes(16))
    fields = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
        # As Codex says it; upstream may ask for it.
        "OpenAI-Beta": "responses_websockets=2026-02-06",
    }
    connection.request("GET", TARGET, headers={**authorization, **fields})
    response = connection.getresponse()
    if response.status != 101:
        raise Declined(response.status, _message(response.read(_READ_SIZE)))
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324 - as RFC 6455 has it
    if response.headers.get("Sec-WebSocket-Accept", "").strip() != accept:
        raise Broken("the answer is not one to this handshake")
    return response


def _message(body: bytes) -> str:
    """What an error says, in OpenAI's shape, as one line that a terminal can show."""
    try:
        text = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(filter(str.isprintable, text))[:_LONGEST_MESSAGE]


def _wait_for(opcode: int, response: HTTPResponse, parser: FrameParser) -> None:
    """Read frames up to the end of one of this kind.

    :raises Broken: what comes are no frames, or nothing more comes.
    """
    while data := response.fp.read1(_READ_SIZE):
        if any(part.opcode == opcode and part.is_last for part in parser.feed(data)):
            return
        if parser.violation is not None:
            raise Broken(parser.violation)
    raise Broken("it ends at once")


def _frame(opcode: int, payload: bytes) -> bytes:
    """A control frame as a client sends it (RFC 6455 section 5.5: at most 125 octets)."""
    mask = secrets.token_bytes(4)
    return bytes([_FIN | opcode, _MASKED | len(payload)]) + mask + unmask(payload, mask, 0)
