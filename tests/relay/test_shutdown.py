"""The end of a busy worker: 50 streams and 20 WebSockets, each in the middle of a turn."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection

from ocm_wsgi.simulator import Gate, Plan
from tests.api_requests import post
from tests.conftest import RunningService, ServiceFactory
from tests.faults.stack import received_until_close
from tests.relay.test_live import LAST_CHUNK, are_complete, open_streams, poll, workers_of
from tests.relay.test_tunnel import TIMEOUT, open_websocket, receive_turn, recorded_turns, run_turn, start_turn

STREAMS = 50
SOCKETS = 20
#: The kernel immediately closes the sockets of a killed process, unless another process holds them too.
IMMEDIATELY_SECONDS = 30
NO_CLOSE_FRAME = CloseCode.ABNORMAL_CLOSURE


@dataclass(frozen=True)
class OpenTurns:
    """Turns that pause after their second event until the gate is released."""

    streams: list[socket.socket]
    sockets: list[ClientConnection]
    gate: Gate


def close_code(client: ClientConnection) -> int:
    """Read a WebSocket to its end; return the code of its Close frame, or 1006 if there is none."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            client.recv(TIMEOUT)
    assert client.protocol.close_code is not None
    return client.protocol.close_code


@contextmanager
def turns_under_way(running: RunningService) -> Iterator[OpenTurns]:
    """Open all streams and WebSockets, and begin a turn on each."""
    with open_streams(running, STREAMS) as (streams, gate), ExitStack() as connections:
        running.simulator.plan(Plan(gate=gate, events=5), times=SOCKETS)
        sockets = [connections.enter_context(open_websocket(running)) for _ in range(SOCKETS)]
        for client in sockets:
            start_turn(client)
        for client in sockets:
            client.recv(TIMEOUT)
        yield OpenTurns(streams, sockets, gate)


def expected_turns(status: str, *, streams: int = STREAMS, sockets: int = SOCKETS) -> Counter[tuple[str, str, str]]:
    """Return the expected records of turns that all ended with one status."""
    return Counter({("alice", "sse", status): streams, ("alice", "websocket", status): sockets})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_open_turns_complete(service: ServiceFactory, number: signal.Signals) -> None:
    """At a stop or reload, all turns complete and are recorded, and then the WebSockets are closed with 1001."""
    running = service(workers=2)
    with turns_under_way(running) as open_turns:
        running.process.send_signal(number)
        open_turns.gate.release()
        assert are_complete(open_turns.streams)
        assert [b"response.completed" in receive_turn(client)[-1] for client in open_turns.sockets] == [True] * SOCKETS
        assert {close_code(client) for client in open_turns.sockets} == {CloseCode.GOING_AWAY}
        assert Counter(recorded_turns(running)) == expected_turns("completed")


def run_turn_after_a_reload(running: RunningService) -> None:
    """Run a turn on a new WebSocket. As Codex does, connect again if an old worker accepted it and then closed it."""
    while True:
        with open_websocket(running) as client:
            try:
                run_turn(client)
            except ConnectionClosedOK as exc:
                if exc.rcvd is None or exc.rcvd.code != CloseCode.GOING_AWAY:
                    raise
            else:
                return


def test_new_turns_are_served_after_a_reload(service: ServiceFactory) -> None:
    """After a reload, new turns are served while those of the old workers are paused; these complete later."""
    running = service(workers=2)
    with turns_under_way(running) as open_turns:
        before = workers_of(running)
        running.process.send_signal(signal.SIGHUP)
        assert post(running).status_code == 200
        poll(lambda: len(set(workers_of(running)) - set(before)) == 2)
        run_turn_after_a_reload(running)
        assert running.simulator.wait_for(lambda: running.simulator.open_streams == STREAMS + SOCKETS)
        open_turns.gate.release()
        assert are_complete(open_turns.streams)
        for client in open_turns.sockets:
            receive_turn(client)
        poll(lambda: not set(workers_of(running)) & set(before))
    assert Counter(recorded_turns(running)) == expected_turns("completed", streams=STREAMS + 1, sockets=SOCKETS + 1)


def test_turns_open_after_the_grace_period_are_cut(service: ServiceFactory) -> None:
    """After the grace period open turns are cut and recorded as cut, and the new workers keep serving."""
    running = service(workers=2, arguments=("--graceful-timeout", "3"))
    with turns_under_way(running) as open_turns:
        running.process.send_signal(signal.SIGHUP)
        assert not any(LAST_CHUNK in received_until_close(client) for client in open_turns.streams)
        assert {close_code(client) for client in open_turns.sockets} == {NO_CLOSE_FRAME}
        poll(lambda: Counter(recorded_turns(running)) == expected_turns("cut"))
    assert post(running).status_code == 200


def test_killed_worker_cuts_websockets(service: ServiceFactory) -> None:
    """A killed worker never makes a response or a WebSocket look complete, and upstream is disconnected."""
    running = service(workers=1)
    with turns_under_way(running) as open_turns:
        (worker,) = workers_of(running)
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        assert not any(LAST_CHUNK in received_until_close(client) for client in open_turns.streams)
        assert {close_code(client) for client in open_turns.sockets} == {NO_CLOSE_FRAME}
        assert running.simulator.wait_for(lambda: running.simulator.open_connections == 0, IMMEDIATELY_SECONDS)
        assert time.monotonic() - began < IMMEDIATELY_SECONDS
        assert post(running).status_code == 200


def test_open_streams_complete_on_term(service: ServiceFactory) -> None:
    """TERM lets an open stream complete."""
    running = service()
    gate = running.simulator.gate().after(2)
    running.simulator.plan(Plan(gate=gate))
    with ThreadPoolExecutor(2) as pool:
        response = pool.submit(post, running)
        assert gate.reached.wait(30)
        stopped = pool.submit(running.stop)
        gate.release()
        assert "response.completed" in response.result().text
        assert stopped.result() == 0


@pytest.mark.parametrize("booted", [1, 2, 3, 4])
def test_stop_while_workers_start(service: ServiceFactory, booted: int) -> None:
    """TERM stops the service immediately even while workers are starting."""
    running = service(workers=4)
    deadline = time.monotonic() + 20
    while running.log_text().count("Booting worker") < booted:
        assert time.monotonic() < deadline
    stopping = time.monotonic()
    assert running.stop() == 0
    # A worker that misses the signal delays the stop by the grace period of two minutes.
    assert time.monotonic() - stopping < 20
