"""Unfinished messages through the real service: one user cannot fill the memory."""

from __future__ import annotations

import contextlib

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import BOB, ServiceFactory
from tests.relay.test_live import workers_of
from tests.relay.test_tunnel import TIMEOUT, open_websocket, run_turn

FRAGMENT_BYTES = 60 * 1024 * 1024
MOST_MIB = 300


def resident_mib(pid: int) -> int:
    """Return the memory of a process."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) // 1024


def test_unfinished_messages_of_one_user(service: ServiceFactory) -> None:
    """Beyond two of the longest messages, a user's further socket is closed with 1013; another user's is not."""
    running = service(workers=1)
    # The first fragment of a message, masked with zeros.
    fragment = b"\x01\xff" + FRAGMENT_BYTES.to_bytes(8, "big") + bytes(4) + bytes(FRAGMENT_BYTES)
    with contextlib.ExitStack() as sockets:
        clients = [sockets.enter_context(open_websocket(running)) for _ in range(3)]
        bob = sockets.enter_context(open_websocket(running, BOB))
        for client in clients[:2]:
            client.socket.sendall(fragment)
            assert client.ping().wait(TIMEOUT)
        with contextlib.suppress(OSError):
            clients[2].socket.sendall(fragment)
        with pytest.raises(ConnectionClosed) as closed:
            clients[2].recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert b"response.completed" in run_turn(bob)[-1]
        (worker,) = workers_of(running)
        assert resident_mib(worker) < MOST_MIB
        for client in clients:
            client.socket.close()
