"""How sockets are read: all data that has arrived, reported or not; and when the kernel acknowledges it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.relay.test_deadlines import Pipe
from tests.relay.test_tunnel_deadlines import Passage
from tests.websocket_peers import Peer


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """What the test opens, closed at its end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def upstream(resources: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = resources.enter_context(socket.create_connection(listener.getsockname()))
        far = resources.enter_context(listener.accept()[0])
    return near, far


def acknowledges_at_once(connection: socket.socket) -> bool:
    """Whether each segment is, as tcp(7) has it of TCP_QUICKACK."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


def test_events_of_a_stream_are_acknowledged_later(
    resources: ExitStack, upstream: tuple[socket.socket, socket.socket]
) -> None:
    """Every other; also when the kernel has gone back to acknowledging all, as it does after a pause."""
    near, far = upstream
    pipe = Pipe(resources, upstream=near)
    pipe.stream.start()
    for _ in range(2):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        far.sendall(b"event")
        pipe.run()
        assert pipe.client.recv(10) == b"event"
        assert acknowledges_at_once(near)
        pipe.stream.check(pipe.loop.now)
        assert not acknowledges_at_once(near)


def test_messages_of_a_turn_are_acknowledged_later(
    resources: ExitStack, upstream: tuple[socket.socket, socket.socket]
) -> None:
    """While a turn is open, and not between two."""
    near, far = upstream
    passage = Passage(resources, upstream=(near, far))
    passage.tunnel.check(passage.loop.now)
    assert acknowledges_at_once(near)
    passage.ask()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    far.sendall(Peer().text(b'{"type":"response.created"}'))
    passage.run()
    passage.tunnel.check(passage.loop.now)
    assert not acknowledges_at_once(near)


@pytest.mark.parametrize("sends_end", [False, True], ids=["goes-on", "ends"])
def test_more_than_one_read_of_a_websocket(resources: ExitStack, sends_end: bool) -> None:
    """What came at once arrives without anything more to come, and so does the end that came with it."""
    passage = Passage(resources)
    sent = Peer().text(b"x" * 60_000) * 2
    passage.upstream.sendall(sent)
    if sends_end:
        passage.upstream.shutdown(socket.SHUT_WR)
    passage.run()
    passage.client.settimeout(20)
    with passage.client.makefile("rb") as received:
        assert received.read(len(sent)) == sent
    assert passage.ends == (["upstream cut it: it ended"] if sends_end else [])
