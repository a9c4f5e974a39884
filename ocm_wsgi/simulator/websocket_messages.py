"""The frames of a WebSocket, for the simulated OpenAI.

Uses the ``websockets`` package's sans-I/O protocol: the connection's own thread reads and writes, so plans can cause
the same faults as on HTTP connections.
"""

from __future__ import annotations

import json
import select
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from ocm_wsgi.simulator.connection import ClientGone
from ocm_wsgi.simulator.exchange import Exchange
from ocm_wsgi.simulator.model import new_id
from ocm_wsgi.simulator.receiving import Head
from ocm_wsgi.simulator.recording import Sent
from ocm_wsgi.simulator.targets import API_BASE

#: The maximum size of a message in bytes, as in Codex's own library.
MAX_MESSAGE = 64 * 1024 * 1024
READ_SIZE = 64 * 1024
#: How often a blocked response checks for frames from the client, in seconds.
HELD_SECONDS = 0.1
#: How long to wait for the client to disconnect after our Close frame, in seconds.
CLOSE_SECONDS = 2.0


class Messages:
    """The messages of one WebSocket.

    :ivar waiting: messages that were received and not yet handled.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.waiting: deque[str] = deque()
        self._exchange = exchange
        self._connection = exchange.connection
        self._protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=MAX_MESSAGE)
        self._fragments: list[bytes] = []
        self._sent = Sent(exchange.number, exchange.head.target, 101)

    def open(self) -> bool:
        """Respond to the opening handshake; return whether it was accepted."""
        self._protocol.receive_data(_handshake_bytes(self._exchange.head))
        (request,) = self._protocol.events_received()
        if not isinstance(request, Request):
            raise TypeError("an opening handshake was expected")
        response = self._protocol.accept(request)
        planned = self._exchange.plan.fields if self._exchange.plan.upgrade else ()
        for name, value in (("x-request-id", new_id("req")), *planned):
            response.headers[name] = value
        self._protocol.send_response(response)
        self._exchange.world.journal.add_sent(self._sent)
        self._flush()
        return response.status_code == 101

    @property
    def is_open(self) -> bool:
        """Whether no Close frame was sent or received."""
        return self._protocol.state is State.OPEN

    def close(self, code: int, reason: str) -> None:
        """Send a Close frame and wait for the client's, or for its disconnect."""
        self._protocol.send_close(code, reason)
        self._flush()
        self._connection.socket.settimeout(CLOSE_SECONDS)
        while self._protocol.close_rcvd is None:
            self.receive()

    def send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message, separators=(",", ":")).encode()
        self._sent.add(data)
        self._protocol.send_text(data)
        self._flush()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._connection.send(data)

    def receive_pending(self) -> None:
        """Process the data received so far.

        :raises ClientGone: it was a Close frame, or the end of the connection.
        """
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLIN)
        while poll.poll(0) or _has_pending(self._connection.socket):
            self.receive()
            if self._protocol.state is not State.OPEN:
                raise ClientGone

    def receive(self) -> None:
        """Read once, queue completed messages, and respond to control frames."""
        data = self._connection.reader.read1(READ_SIZE)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for frame in self._protocol.events_received():
            self._take_frame(frame)
        self._flush()
        if not data:
            raise ClientGone

    def _take_frame(self, frame: Any) -> None:
        if frame.opcode is Opcode.BINARY:
            self._protocol.fail(1003, "only text is supported")
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.CONT):
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            self.waiting.append(b"".join(self._fragments).decode("utf-8", "replace"))
            self._fragments.clear()


def _handshake_bytes(head: Head) -> bytes:
    """Return the opening handshake with the fields that the protocol needs; it rejects Codex's longest fields."""
    names = ("host", "upgrade", "connection", "origin")
    fields = [
        f"{name}: {value}"
        for name, value in head.fields
        if name.lower() in names or name.lower().startswith("sec-websocket-")
    ]
    return "\r\n".join([f"GET {API_BASE} HTTP/1.1", *fields, "", ""]).encode("latin-1")


def _has_pending(sock: Any) -> bool:
    """Return whether TLS has decrypted data that was not read yet."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
