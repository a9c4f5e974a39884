"""WebSockets through the whole stack, and an upstream that sends arbitrary bytes."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.utils import accept_key

from tests.clients.nginx import SERVER_NAME
from tests.conftest import ALICE
from tests.faults.stack import WAIT_SECONDS, Stack

CREATE = {"type": "response.create", "model": "gpt-5.5", "input": []}


@dataclass
class SocketClient:
    """A client's WebSocket, with the messages it has received.

    :ivar request_id: identifies its turns in the ledger.
    :ivar received: the messages from upstream, in order.
    """

    client: ClientConnection
    request_id: str
    received: list[str] = field(default_factory=list)

    def ask(self, **members: Any) -> None:
        """Request a turn."""
        self.client.send(json.dumps({**CREATE, **members}))

    def receive_turn(self) -> dict[str, Any]:
        """Receive a turn to its end; return its last message."""
        while True:
            self.received.append(str(self.client.recv(WAIT_SECONDS)))
            message: dict[str, Any] = json.loads(self.received[-1])
            if message["type"] in ("response.completed", "error"):
                return message

    def turn(self, **members: Any) -> str:
        """Take a turn; return how it ended."""
        self.ask(**members)
        return str(self.receive_turn()["type"])

    def receive_until_close(self) -> ConnectionClosed:
        """Receive until the connection ends; return how it ended."""
        try:
            while True:
                self.received.append(str(self.client.recv(WAIT_SECONDS)))
        except ConnectionClosed as closed:
            return closed


@contextmanager
def open_socket(
    stack: Stack, token: str = ALICE, *, route: str = "nginx", compression: str | None = None
) -> Iterator[SocketClient]:
    """Open a WebSocket."""
    request_id = base64.b16encode(os.urandom(8)).decode()
    fields = {"Authorization": f"Bearer {token}", "X-Client-Request-Id": request_id}
    with (
        stack.socket(route, tls=stack.nginx.threads_tls()) as connection,
        connect(
            f"ws://{SERVER_NAME}/v1/responses",
            sock=connection,
            compression=compression,
            proxy=None,
            max_size=None,
            max_queue=1,
            additional_headers=fields,
            close_timeout=1,
            ping_interval=None,  # a ping could complete a frame that a test leaves incomplete
        ) as client,
    ):
        yield SocketClient(client, request_id)


def statuses(stack: Stack, *talks: SocketClient) -> list[str]:
    """Return the recorded statuses of these sockets' turns, in the order of recording."""
    known = {each.request_id for each in talks}
    return [status for _, status, request_id in stack.rows() if request_id in known]


@contextmanager
def upstream_sending(data: bytes) -> Iterator[str]:
    """Accept WebSockets, send these bytes after the first message, and close; yield the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, data))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_SECONDS)


def _serve(listener: socket.socket, data: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as lines:
            key = next(line for line in lines if line.lower().startswith(b"sec-websocket-key:")).split()[1].decode()
            while lines.readline().strip():
                pass
            answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
            answer += [f"Sec-WebSocket-Accept: {accept_key(key)}", "", ""]
            connection.sendall("\r\n".join(answer).encode())
            lines.read1()
            connection.sendall(data)
