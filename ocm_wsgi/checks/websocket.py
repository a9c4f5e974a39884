"""A WebSocket through the public address to OpenAI: opened, pinged and closed, without a turn.

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
# Codex's own timeout for the opening handshake.
TIMEOUT_SECONDS = 15.0

# RFC 6455 section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")
_FIN, _MASKED = 0x80, 0x80
_READ_SIZE = 65536
_MAX_MESSAGE_LENGTH = 200


class Declined(Exception):
    """The opening handshake was rejected; the message is the status and the error's text, if any.

    :ivar status: the response's status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status = status


class Broken(Exception):
    """The WebSocket was opened but does not work; the message says why."""


def probe(connection: HTTPConnection, authorization: Mapping[str, str]) -> None:
    """Open a WebSocket, ping OpenAI, and close it.

    :param connection: unusable afterwards; the caller closes it.
    :raises Declined: the handshake was rejected.
    :raises Broken: the WebSocket was opened but does not pass frames.
    :raises OSError, http.client.HTTPException: there was no response.
    """
    response = _opened(connection, authorization)
    parser = FrameParser(masked=False, compressible=False)
    try:
        connection.sock.sendall(_frame(PING, b"ocm"))
        _wait_for(PONG, response, parser)
    except OSError as exc:
        raise Broken("no frame is received") from exc
    # The result is known by now; how the peer closes does not matter.
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
        # As sent by Codex; upstream may require it.
        "OpenAI-Beta": "responses_websockets=2026-02-06",
    }
    connection.request("GET", TARGET, headers={**authorization, **fields})
    response = connection.getresponse()
    if response.status != 101:
        raise Declined(response.status, _message(response.read(_READ_SIZE)))
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324 - required by RFC 6455
    if response.headers.get("Sec-WebSocket-Accept", "").strip() != accept:
        raise Broken("Sec-WebSocket-Accept does not match this handshake")
    return response


def _message(body: bytes) -> str:
    """Return the message of an error object like OpenAI's, as one line that is safe for a terminal."""
    try:
        text = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(filter(str.isprintable, text))[:_MAX_MESSAGE_LENGTH]


def _wait_for(opcode: int, response: HTTPResponse, parser: FrameParser) -> None:
    """Read frames until one with this opcode is complete.

    :raises Broken: invalid frames, or the end of the connection.
    """
    while data := response.fp.read1(_READ_SIZE):
        if any(part.opcode == opcode and part.is_last for part in parser.feed(data)):
            return
        if parser.violation is not None:
            raise Broken(parser.violation)
    raise Broken("the connection ends immediately")


def _frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's control frame (RFC 6455 section 5.5: a payload of at most 125 bytes)."""
    mask = secrets.token_bytes(4)
    return bytes([_FIN | opcode, _MASKED | len(payload)]) + mask + unmask(payload, mask, 0)
