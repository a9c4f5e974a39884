"""WebSockets through TLS and nginx."""

from __future__ import annotations

import hashlib
import socket

from ocm_wsgi.simulator import Plan
from tests.clients.sockets import WAIT_SECONDS, ask, connect_socket, hear
from tests.faults.stack import GONE_SECONDS, Stack


def test_large_messages(stack: Stack) -> None:
    """A question of 20 MB and an answer of 4 MB pass, unchanged."""
    stack.simulator.plan(Plan(events=4, event_bytes=2**20))
    heard = b""
    with connect_socket(stack) as client:
        ask(client, "x" * 20_000_000)
        while b"response.completed" not in heard[-4000:]:
            heard += str(client.recv(WAIT_SECONDS)).encode()
    assert hashlib.sha256(heard).hexdigest() == stack.simulator.sent[-1].body_sha256
    assert [turn.status for turn in stack.simulator.turns] == ["completed"]


def test_client_drops_the_connection(stack: Stack) -> None:
    """A client that just goes, as Codex does, ends its turn upstream within a second, though upstream is silent."""
    simulator = stack.simulator
    simulator.plan(Plan(silence_after=1))
    with connect_socket(stack) as client:
        ask(client)
        hear(client, "response.created")
        assert simulator.open_streams == 1
        client.socket.shutdown(socket.SHUT_RDWR)
        assert simulator.wait_for(lambda: simulator.open_streams == 0, GONE_SECONDS)
