"""A WebSocket client that connects through nginx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.conftest import ALICE
from tests.faults.stack import Stack

WAIT_SECONDS = 20.0


@contextmanager
def connect_socket(stack: Stack) -> Iterator[ClientConnection]:
    """Open a WebSocket as Codex does, without sending pings."""
    with connect(
        f"{stack.nginx.url.replace('https', 'wss', 1)}/v1/responses",
        ssl=stack.nginx.threads_tls(),
        additional_headers={"Authorization": f"Bearer {ALICE}"},
        ping_interval=None,
        max_size=None,
        proxy=None,
    ) as client:
        yield client


def request_turn(client: ClientConnection, text: str = "say hi") -> None:
    """Request a turn."""
    client.send(json.dumps({"type": "response.create", "model": "gpt-5.5", "input": text}))


def receive_until(client: ClientConnection, last: str = "response.completed") -> list[dict[str, Any]]:
    """Return the messages up to one of this type."""
    received: list[dict[str, Any]] = []
    while not received or received[-1]["type"] != last:
        received.append(json.loads(client.recv(WAIT_SECONDS)))
    return received
