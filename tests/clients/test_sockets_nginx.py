"""WebSockets through TLS and nginx."""

from __future__ import annotations

import hashlib
import os
import socket

from ocm_wsgi.simulator import Plan
from tests.clients.sockets import WAIT_SECONDS, connect_socket, receive_until, request_turn
from tests.faults.stack import GONE_SECONDS, Stack


def test_large_messages(stack: Stack) -> None:
    """A request of 20 MB and a response of 4 MB are forwarded unchanged."""
    stack.simulator.plan(Plan(events=4, event_bytes=2**20))
    received = b""
    with connect_socket(stack) as client:
        request_turn(client, os.urandom(10_000_000).hex())
        while b"response.completed" not in received[-4000:]:
            received += str(client.recv(WAIT_SECONDS)).encode()
    assert hashlib.sha256(received).hexdigest() == stack.simulator.sent[-1].body_sha256
    assert [turn.status for turn in stack.simulator.turns] == ["completed"]


def test_client_drops_the_connection(stack: Stack) -> None:
    """When a client vanishes, as Codex does, its upstream turn ends within a second, although upstream is silent."""
    simulator = stack.simulator
    simulator.plan(Plan(silence_after=1))
    with connect_socket(stack) as client:
        request_turn(client)
        receive_until(client, "response.created")
        assert simulator.open_streams == 1
        client.socket.shutdown(socket.SHUT_RDWR)
        assert simulator.wait_for(lambda: simulator.open_streams == 0, GONE_SECONDS)
