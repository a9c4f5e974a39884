"""The end of a worker with much under way: 50 streams and 20 WebSockets, each in the middle of a turn."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection

from ocm_wsgi.simulator import Gate, Plan
from tests.conftest import RunningService, ServiceFactory
from tests.faults.stack import received_until_close
from tests.relay.test_live import LAST_CHUNK, are_whole, open_streams, poll, workers_of
from tests.relay.test_tunnel import TIMEOUT, ask, hear, records, say, through
from tests.views.test_proxy import post

STREAMS = 50
SOCKETS = 20
#: The kernel closes at once what a killed process had open, unless another has it too.
AT_ONCE_SECONDS = 30
NO_CLOSE_FRAME = CloseCode.ABNORMAL_CLOSURE


@dataclass(frozen=True)
class UnderWay:
    """Turns that stand behind their second event until the gate is released."""

    streams: list[socket.socket]
    sockets: list[ClientConnection]
    gate: Gate


def close_code(client: ClientConnection) -> int:
    """Read a WebSocket to its end; return the code of the Close frame, or a placeholder for none."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            client.recv(TIMEOUT)
    assert client.protocol.close_code is not None
    return client.protocol.close_code


@contextmanager
def under_way(running: RunningService) -> Iterator[UnderWay]:
    """Begin all of them."""
    with open_streams(running, STREAMS) as (streams, gate), ExitStack() as connections:
        running.simulator.plan(Plan(gate=gate, events=5), times=SOCKETS)
        sockets = [connections.enter_context(through(running)) for _ in range(SOCKETS)]
        for client in sockets:
            say(client)
        for client in sockets:
            client.recv(TIMEOUT)
        yield UnderWay(streams, sockets, gate)


def turns(status: str, *, streams: int = STREAMS, sockets: int = SOCKETS) -> Counter[tuple[str, str, str]]:
    """Records of so many turns that all ended so."""
    return Counter({("alice", "sse", status): streams, ("alice", "websocket", status): sockets})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_all_end_whole(service: ServiceFactory, number: signal.Signals) -> None:
    """At a stop and a reload all turns end whole and are recorded, and then the sockets are closed with 1001."""
    running = service(workers=2)
    with under_way(running) as open_turns:
        running.process.send_signal(number)
        open_turns.gate.release()
        assert are_whole(open_turns.streams)
        assert [b"response.completed" in hear(client)[-1] for client in open_turns.sockets] == [True] * SOCKETS
        assert {close_code(client) for client in open_turns.sockets} == {CloseCode.GOING_AWAY}
        assert Counter(records(running)) == turns("completed")


def test_new_work_is_taken_at_once(service: ServiceFactory) -> None:
    """After a reload new turns are served while those of the old workers stand still, which then end whole."""
    running = service(workers=2)
    with under_way(running) as open_turns:
        before = workers_of(running)
        running.process.send_signal(signal.SIGHUP)
        assert post(running).status_code == 200
        poll(lambda: len(set(workers_of(running)) - set(before)) == 2)
        with through(running) as client:
            ask(client)
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == STREAMS + SOCKETS)
        open_turns.gate.release()
        assert are_whole(open_turns.streams)
        for client in open_turns.sockets:
            hear(client)
        poll(lambda: not set(workers_of(running)) & set(before))
    assert Counter(records(running)) == turns("completed", streams=STREAMS + 1, sockets=SOCKETS + 1)


def test_what_is_open_long_after_a_reload_is_cut(service: ServiceFactory) -> None:
    """At the end of the grace period clients see a cut, each turn is recorded as cut, and new workers serve on."""
    running = service(workers=2, arguments=("--graceful-timeout", "3"))
    with under_way(running) as open_turns:
        running.process.send_signal(signal.SIGHUP)
        assert not any(LAST_CHUNK in received_until_close(client) for client in open_turns.streams)
        assert {close_code(client) for client in open_turns.sockets} == {NO_CLOSE_FRAME}
        poll(lambda: Counter(records(running)) == turns("cut"))
    assert post(running).status_code == 200


def test_a_killed_worker_cuts_sockets(service: ServiceFactory) -> None:
    """The end of a worker never looks like the end of a response or of a WebSocket, and upstream notices it."""
    running = service(workers=1)
    with under_way(running) as open_turns:
        (worker,) = workers_of(running)
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        assert not any(LAST_CHUNK in received_until_close(client) for client in open_turns.streams)
        assert {close_code(client) for client in open_turns.sockets} == {NO_CLOSE_FRAME}
        assert running.simulator.wait_for(lambda: running.simulator.open_connections == 0, AT_ONCE_SECONDS)
        assert time.monotonic() - began < AT_ONCE_SECONDS
        assert post(running).status_code == 200
