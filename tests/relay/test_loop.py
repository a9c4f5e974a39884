"""Callbacks deferred by other threads, the order within a pass, and the number of sends that a stream needs."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from ocm_wsgi.protocol.http.framing import chunk
from ocm_wsgi.relay.loop import DEFERRED_PER_PASS, Loop
from ocm_wsgi.relay.read_on import ReadOns
from ocm_wsgi.relay.stream import Stream, Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upstream:
    """A fake of an upstream response's body."""

    def __init__(self, connection: socket.socket, buffered: bytes) -> None:
        self.socket = connection
        self.is_chunked = True
        self.length: int | None = None
        self.buffered = buffered

    def give_back(self) -> None:
        """Leave the connection open."""

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """A stack that closes what the test has opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def loop(resources: ExitStack) -> Loop:
    """Return a loop that runs in the test's thread."""
    loop = Loop()
    resources.callback(loop.close)
    return loop


def sends_to_client(
    resources: ExitStack, loop: Loop, *buffered: bytes, then: bytes = b"", holds_head: bool = False
) -> list[bytes]:
    """Return each send to the client.

    :param buffered: body data that arrived with upstream's head.
    :param then: body data that arrives afterwards, before upstream's end.
    """
    upstream, far_upstream = map(resources.enter_context, socket.socketpair())
    # Each read returns the data of exactly one write.
    client, far_client = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    stream = Stream(
        loop,
        Upstream(upstream, b"".join(buffered)),
        client,
        head=HEAD,
        is_chunked=True,
        turn=None,
        timeouts=Timeouts(stall_seconds=1, silence_seconds=1),
        holds_head=holds_head,
        read_ons=ReadOns(),
        user="",
        defer=loop.defer,
        on_end=lambda _end: client.close(),
    )
    stream.start()
    with suppress(BrokenPipeError):  # The stream may have ended already.
        far_upstream.sendall(then)
        far_upstream.shutdown(socket.SHUT_WR)
    loop.run(0.05)
    return list(iter(lambda: far_client.recv(65536), b""))


@pytest.mark.parametrize(
    ("buffered", "then", "expected"),
    [
        pytest.param(
            (chunk(b"whole"), b"0\r\n\r\n"), b"", [HEAD + chunk(b"whole") + b"0\r\n\r\n"], id="all-came-with-the-head"
        ),
        pytest.param(
            (chunk(b"some"),), b"0\r\n\r\n", [HEAD + chunk(b"some"), b"0\r\n\r\n"], id="some-came-with-the-head"
        ),
        pytest.param((), chunk(b"late") + b"0\r\n\r\n", [HEAD, chunk(b"late") + b"0\r\n\r\n"], id="nothing-came"),
        pytest.param((b"5",), b"", [HEAD], id="half-a-line-came-and-then-the-end"),
        pytest.param((b"no chunk\r\n",), b"", [HEAD], id="garbage-came"),
        pytest.param((chunk(b"some"), b"no chunk\r\n"), b"", [HEAD + chunk(b"some")], id="some-and-garbage-came"),
    ],
)
def test_head_is_sent_with_buffered_data(
    resources: ExitStack, loop: Loop, buffered: tuple[bytes, ...], then: bytes, expected: list[bytes]
) -> None:
    """A head is never delayed, but body data that arrived with it goes out in the same send."""
    assert sends_to_client(resources, loop, *buffered, then=then) == expected


def test_head_of_a_refused_websocket_waits_for_the_body(resources: ExitStack, loop: Loop) -> None:
    """A client that reads only what arrives together with the head gets the whole refusal."""
    body = chunk(b"late") + b"0\r\n\r\n"
    assert sends_to_client(resources, loop, then=body, holds_head=True) == [HEAD + body]


def test_callbacks_deferred_by_other_threads(loop: Loop) -> None:
    """Callbacks that many threads defer run in the loop's thread, each once and in each thread's order."""
    called: list[tuple[int, int, int]] = []

    def note(thread: int, number: int) -> None:
        called.append((thread, number, threading.get_ident()))
        if len(called) == 4000:
            loop.interrupt()

    def work(thread: int) -> None:
        for number in range(1000):
            loop.defer(partial(note, thread, number))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    loop.run(30)
    for thread in threads:
        thread.join()
    assert {ident for _, _, ident in called} == {threading.get_ident()}
    for thread_number in range(4):
        assert [number for thread, number, _ in called if thread == thread_number] == list(range(1000))


def test_many_deferred_callbacks_do_not_delay_events(resources: ExitStack, loop: Loop) -> None:
    """A socket's events are dispatched before all of the callbacks that were deferred before them."""
    called: list[object] = []
    near, far = map(resources.enter_context, socket.socketpair())
    for number in range(3 * DEFERRED_PER_PASS):
        loop.defer(partial(called.append, number))
    loop.defer(loop.interrupt)
    far.sendall(b"event")
    loop.watch(near.fileno(), select.EPOLLIN | select.EPOLLET, lambda _mask: called.append("event"))
    loop.run(30)
    assert [each for each in called if each != "event"] == list(range(3 * DEFERRED_PER_PASS))
    assert called.index("event") <= DEFERRED_PER_PASS


def test_end_of_a_pass(resources: ExitStack, loop: Loop) -> None:
    """The end of a pass comes when all ready events have been dispatched, or at the time that was asked for."""
    called: list[str] = []
    for name in ("a", "b"):
        near, far = map(resources.enter_context, socket.socketpair())
        far.sendall(b"event")

        def on_ready(_mask: int, name: str = name, near: socket.socket = near) -> None:
            near.recv(10)
            called.append(name)

        loop.watch(near.fileno(), select.EPOLLIN, on_ready)

    def end_pass(now: float) -> float:
        called.append("end")
        if called.count("end") == 2:
            loop.interrupt()
        return now  # Again without any event.

    loop.at_pass_end(end_pass)
    loop.run(30)
    assert [sorted(called[:2]), *called[2:]] == [["a", "b"], "end", "end"]


def test_failing_callback_does_not_stop_the_others(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a deferred callback is logged, and the others run."""
    called: list[str] = []
    loop.defer(lambda: called.append("before"))
    loop.defer(lambda: [][0])
    loop.defer(lambda: called.append("after"))
    loop.defer(loop.interrupt)
    loop.run(30)
    assert called == ["before", "after"]
    assert "IndexError" in caplog.text


def test_callback_that_defers_itself_does_not_starve_sockets(loop: Loop) -> None:
    """A callback that keeps deferring itself does not starve the loop's sockets."""
    rounds = 0
    near, far = socket.socketpair()
    with near, far:

        def again() -> None:
            nonlocal rounds
            rounds += 1
            loop.defer(again)

        loop.watch(near.fileno(), select.EPOLLIN, lambda _mask: loop.interrupt())
        loop.defer(again)
        far.sendall(b"x")
        loop.run(30)
        loop.forget(near.fileno())
    assert rounds < 10


def test_batched_callbacks_run_together_and_soon(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """Batched callbacks run in order after the events, all at once, even if one of them fails."""
    called: list[str] = []

    def batch() -> None:
        loop.batch(lambda: called.append("first"))
        loop.batch(lambda: [][0])
        loop.batch(lambda: called.append("last"))
        loop.batch(loop.interrupt)
        loop.defer(lambda: called.append("deferred"))

    loop.defer(batch)
    loop.run(30)
    assert called == ["deferred", "first", "last"]
    assert "IndexError" in caplog.text


def test_large_batch_does_not_starve_sockets(loop: Loop) -> None:
    """Between parts of a large batch the loop looks at its sockets."""
    called: list[int] = []
    near, far = socket.socketpair()
    with near, far:
        loop.watch(near.fileno(), select.EPOLLIN, lambda _mask: loop.interrupt())
        loop.batch(lambda: far.sendall(b"x"))
        for number in range(1000):
            loop.batch(partial(called.append, number))
        loop.run(30)
        assert 0 < len(called) < 1000
        loop.run_batch()
        assert called == list(range(1000))
        loop.forget(near.fileno())


def test_batch_can_be_run_before_its_time(loop: Loop) -> None:
    """At the end of a worker nothing that was batched is lost, and nothing runs twice."""
    called: list[str] = []
    loop.batch(lambda: called.append("once"))
    loop.run_batch()
    loop.run_batch()
    assert called == ["once"]
