"""Reading from sockets: all data that has arrived is read, and ACKs are delayed while a response streams."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.relay.test_deadlines import StreamHarness
from tests.relay.test_tunnel_deadlines import TunnelHarness
from tests.websocket_peers import Peer


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """A stack that closes what the test has opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def upstream(resources: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = resources.enter_context(socket.create_connection(listener.getsockname()))
        far = resources.enter_context(listener.accept()[0])
    return near, far


def acknowledges_immediately(connection: socket.socket) -> bool:
    """Return whether each segment is acknowledged immediately (TCP_QUICKACK in tcp(7))."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


def test_events_of_a_stream_are_acknowledged_later(
    resources: ExitStack, upstream: tuple[socket.socket, socket.socket]
) -> None:
    """Delayed ACKs are enabled again when the kernel returns to quick ACKs, as it does after a pause."""
    near, far = upstream
    harness = StreamHarness(resources, upstream=near)
    harness.stream.start()
    for _ in range(2):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        far.sendall(b"event")
        harness.run()
        assert harness.client.recv(10) == b"event"
        assert acknowledges_immediately(near)
        harness.stream.check(harness.loop.now)
        assert not acknowledges_immediately(near)


def test_messages_of_a_turn_are_acknowledged_later(
    resources: ExitStack, upstream: tuple[socket.socket, socket.socket]
) -> None:
    """ACKs are delayed while a turn is open, and not between turns."""
    near, far = upstream
    harness = TunnelHarness(resources, upstream=(near, far))
    harness.tunnel.check(harness.loop.now)
    assert acknowledges_immediately(near)
    harness.begin_turn()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    far.sendall(Peer().text(b'{"type":"response.created"}'))
    harness.run()
    harness.tunnel.check(harness.loop.now)
    assert not acknowledges_immediately(near)


@pytest.mark.parametrize("sends_end", [False, True], ids=["goes-on", "ends"])
def test_more_than_one_read_of_a_websocket(resources: ExitStack, sends_end: bool) -> None:
    """Data beyond one read is relayed without waiting for more to arrive, and so is an end that came with it."""
    harness = TunnelHarness(resources)
    sent = Peer().text(b"x" * 60_000) * 2
    harness.upstream.sendall(sent)
    if sends_end:
        harness.upstream.shutdown(socket.SHUT_WR)
    harness.run()
    harness.client.settimeout(20)
    with harness.client.makefile("rb") as received:
        assert received.read(len(sent)) == sent
    assert harness.ends == (["upstream cut it: it ended"] if sends_end else [])
