"""Deadlines of streams, of incoming requests and of connections that are being closed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from gunicorn.workers import gthread

from ocm_wsgi.protocol.http.form_arrival import FORM_SECONDS
from ocm_wsgi.relay.lingering_close import LINGER_SECONDS, LingeringClose
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.read_on import ReadOns
from ocm_wsgi.relay.request_arrival import HEAD_SECONDS, MAX_HEAD_BYTES, RequestArrival
from ocm_wsgi.relay.stream import CLIENT_LEFT, CLIENT_STALLED, Stream, Timeouts
from ocm_wsgi.server import compatibility, hooks

TIMEOUTS = Timeouts(stall_seconds=120, silence_seconds=1200)


@dataclass
class Body:
    """Upstream's side of a stream; records how it was released."""

    socket: socket.socket
    buffered: bytes = b""
    is_chunked: bool = False
    length: int | None = None
    fate: list[str] = field(default_factory=list)

    def give_back(self) -> None:
        self.fate.append("given back")

    def close(self) -> None:
        self.fate.append("closed")
        self.socket.close()


class StreamHarness:
    """A stream between two socket pairs, with their far ends.

    :param upstream: the connection to upstream; one end of a new socket pair by default.
    """

    def __init__(
        self, resources: ExitStack, *, length: int | None = None, upstream: socket.socket | None = None
    ) -> None:
        self.loop = Loop()
        resources.callback(self.loop.close)
        near, self.upstream = map(resources.enter_context, socket.socketpair())
        client, self.client = map(resources.enter_context, socket.socketpair())
        self.body = Body(upstream or near, length=length)
        self.ends: list[str] = []
        self.stream = Stream(
            self.loop,
            self.body,
            client,
            head=b"",
            is_chunked=False,
            turn=None,
            timeouts=TIMEOUTS,
            read_ons=ReadOns(),
            user="",
            defer=lambda callback: callback(),
            on_end=self.ends.append,
        )

    def run(self) -> None:
        """Handle the sockets that are ready."""
        self.loop.run(0.05)


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """A stack that closes what the test has opened."""
    with ExitStack() as stack:
        yield stack


def test_complete_stream(resources: ExitStack) -> None:
    """The client receives what upstream sends, and upstream's connection returns to the pool."""
    harness = StreamHarness(resources, length=5)
    harness.stream.start()
    harness.upstream.sendall(b"hello")
    harness.run()
    assert harness.client.recv(10) == b"hello"
    assert harness.ends == [""]
    assert harness.body.fate[0] == "given back"
    assert harness.stream.sent_bytes == 5


def test_a_client_that_reads_nothing(resources: ExitStack) -> None:
    """Its upstream is paused when the bounded buffer is full, and the stream ends at its deadline, not earlier."""
    harness = StreamHarness(resources)
    harness.stream.start()
    harness.upstream.setblocking(False)
    accepted_bytes = 0
    for _ in range(100):
        try:
            accepted_bytes += harness.upstream.send(bytes(65536))
        except BlockingIOError:
            harness.loop.run(0.001)
    assert harness.ends == []
    assert harness.stream.sent_bytes <= accepted_bytes < 4 * 2**20
    harness.stream.check(harness.loop.now + TIMEOUTS.stall_seconds - 1)
    assert harness.ends == []
    harness.stream.check(harness.loop.now + TIMEOUTS.stall_seconds + 1)
    assert harness.ends == [CLIENT_STALLED]
    assert harness.body.fate == ["closed"]


def test_a_client_that_resumes_reading(resources: ExitStack) -> None:
    """The stream resumes and loses nothing."""
    content = bytes(range(256)) * 16384
    harness = StreamHarness(resources, length=len(content))
    harness.stream.start()
    harness.upstream.setblocking(False)
    harness.client.setblocking(False)
    unsent, received = content, b""
    for _ in range(10_000):
        for step in ("send", "run", "receive"):
            try:
                if step == "send" and unsent:
                    unsent = unsent[harness.upstream.send(unsent[:300_000]) :]
                elif step == "receive":
                    received += harness.client.recv(70_000)
            except BlockingIOError:
                pass
            if step == "run":
                harness.loop.run(0)
        if len(received) == len(content):
            break
    assert received == content
    assert harness.ends == [""]


def test_upstream_that_is_silent(resources: ExitStack) -> None:
    """The stream is cut at its deadline."""
    harness = StreamHarness(resources)
    harness.stream.start()
    harness.stream.check(harness.loop.now + TIMEOUTS.silence_seconds - 1)
    assert harness.ends == []
    harness.stream.check(harness.loop.now + TIMEOUTS.silence_seconds + 1)
    assert harness.ends == ["upstream cut it: it was silent for too long"]


@pytest.mark.parametrize("length", [None, 10])
def test_upstream_that_closes(resources: ExitStack, length: int | None) -> None:
    """A close ends the body only if no length was announced."""
    harness = StreamHarness(resources, length=length)
    harness.stream.start()
    harness.upstream.sendall(b"hello")
    harness.upstream.close()
    harness.run()
    assert harness.client.recv(10) == b"hello"
    assert harness.ends == ["" if length is None else "upstream cut it: it ended before its end"]


def test_a_client_that_leaves(resources: ExitStack) -> None:
    """The disconnect is noticed while upstream is silent, and upstream's request is ended."""
    harness = StreamHarness(resources)
    harness.stream.start()
    harness.client.close()
    harness.run()
    assert harness.ends == [CLIENT_LEFT]
    assert harness.body.fate == ["closed"]
    assert harness.upstream.recv(1) == b""


FORM = b"POST /ocm/sign-in HTTP/1.1\r\nContent-Length: 6\r\n\r\n"


@dataclass
class Arrival:
    """A request that arrives on a socket pair, and what has become of it."""

    loop: Loop
    far: socket.socket
    arrival: RequestArrival
    outcomes: list[bytes]

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.far.sendall(piece)
            self.loop.run(0.01)


@pytest.fixture
def arrival(resources: ExitStack) -> Arrival:
    """A request of which nothing has arrived yet."""
    loop = Loop()
    resources.callback(loop.close)
    near, far = map(resources.enter_context, socket.socketpair())
    outcomes: list[bytes] = []
    waiting = RequestArrival(
        loop,
        near,
        b"",
        on_arrived=outcomes.append,
        on_too_large=lambda: outcomes.append(b"too large"),
        on_disconnect=lambda: outcomes.append(b"gone"),
    )
    waiting.start()
    return Arrival(loop, far, waiting, outcomes)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n", b"\r", b"\nbody"],
        [b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES - 30), b"\r\n\r\n"],
        [b"POST /v1/responses HTTP/1.1\r\nContent-Length: 6\r\n\r\n"],
        [FORM, b"name", b"=x"],
        [FORM + b"name=x", b""],
        [FORM.replace(b"6", b"65537")],
        [FORM.replace(b"Content-Length: 6", b"Transfer-Encoding: chunked")],
        [FORM.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")],
    ],
)
def test_incoming_request(arrival: Arrival, pieces: list[bytes]) -> None:
    """It is dispatched when its head is complete; a form, also when its body is, unless it would not be read."""
    arrival.send(*pieces[:-1])
    assert arrival.outcomes == [] or not pieces[-1]
    arrival.send(pieces[-1])
    assert arrival.outcomes == [b"".join(pieces)]


@pytest.mark.parametrize(
    ("pieces", "seconds"),
    [
        ([], HEAD_SECONDS),
        ([b"GET / HTTP/1.1\r\n", b"\n"], HEAD_SECONDS),
        ([b"POST /ocm/sign-in HTTP/1.1\r\n"], HEAD_SECONDS),
        ([FORM, b"name="], FORM_SECONDS),
    ],
)
def test_request_that_does_not_arrive(arrival: Arrival, pieces: list[bytes], seconds: float) -> None:
    """It is dropped at its deadline, which is near once only a form is missing."""
    arrival.send(*pieces)
    arrival.arrival.check(arrival.loop.now + seconds - 1)
    assert arrival.outcomes == []
    arrival.arrival.check(arrival.loop.now + seconds + 1)
    assert arrival.outcomes == [b"gone"]


def test_endless_head(arrival: Arrival) -> None:
    """A head that is too large is refused, without a thread."""
    arrival.far.setblocking(False)
    while not arrival.outcomes:
        arrival.send(bytes(16384))
    assert arrival.outcomes == [b"too large"]


def test_a_connection_that_the_client_does_not_close(resources: ExitStack) -> None:
    """It is closed at its deadline, or earlier if the client keeps sending."""
    loop = Loop()
    resources.callback(loop.close)
    closed: list[int] = []
    for number in range(2):
        near, far = map(resources.enter_context, socket.socketpair())
        lingering = LingeringClose(loop, near, lambda number=number: closed.append(number))  # type: ignore[misc]
        lingering.start()
        assert far.recv(1) == b""
        assert closed == list(range(number))
        if number == 0:
            lingering.check(loop.now + LINGER_SECONDS + 1)
        else:
            with pytest.raises(BrokenPipeError):  # noqa: PT012 - any of these sends may hit the closed connection
                for _ in range(10):
                    far.sendall(bytes(16384))
                    loop.run(0.01)
    assert closed == [0, 1]


def test_installed_gunicorn_is_compatible() -> None:
    """The installed gunicorn has the internals on which the worker class relies."""
    assert compatibility.missing_internals() == []


def test_incompatible_gunicorn_falls_back_to_gthread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an internal of gunicorn is missing, the service runs with gunicorn's own worker class."""
    assert hooks.worker_class() == "ocm_wsgi.server.worker.RelayWorker"
    monkeypatch.setattr(gthread.ThreadWorker, "finish_request", lambda self, conn: None)
    monkeypatch.delattr(gthread.ThreadWorker, "enqueue_req")
    assert compatibility.missing_internals() == [
        "ThreadWorker.enqueue_req(conn)",
        "ThreadWorker.finish_request(conn, fs)",
    ]
    assert hooks.worker_class() == "gthread"
    monkeypatch.undo()
    assert hooks.worker_class() == "ocm_wsgi.server.worker.RelayWorker"
