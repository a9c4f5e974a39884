"""WebSockets that stand still: what is waited for and not done in its time ends them, and nothing else does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from websockets.frames import Opcode

from ocm_wsgi.accounting.turn_accounting import TurnRequest
from ocm_wsgi.errors import OcmError, UserRejected
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.websocket.frames import GOING_AWAY, INTERNAL_ERROR, server_close
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import TurnEnded, WebSocketSession, refusal_message
from ocm_wsgi.relay import loop
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.stream import CLIENT_STALLED
from ocm_wsgi.relay.tunnel import UPSTREAM_STALLED, Tunnel
from ocm_wsgi.relay.websocket_turns import WebSocketTurn
from tests.relay.test_deadlines import TIMEOUTS, Body
from tests.websocket_peers import Peer

CREATE = b'{"type":"response.create","model":"gpt-5.5"}'
DELTA = b'{"type":"response.output_text.delta","delta":"' + b"x" * 60_000 + b'"}'
COMPLETED = b'{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}}'
SILENT = "upstream cut it: it was silent for too long"


class Ledger:
    """Stands where the turns of a socket are admitted and recorded; here the record is safe when the test says so.

    :ivar refusal: of each turn that is asked for; ``None`` admits it.
    :ivar ends: how each turn ended, and what waits for its record.
    """

    def __init__(self) -> None:
        self.refusal: OcmError | None = None
        self.ends: list[tuple[str, Callable[[], None]]] = []

    def admit(self, message: HeldMessage) -> WebSocketTurn:
        """Admit or refuse."""
        create = message.read()
        assert create is not None
        if self.refusal is not None:
            raise self.refusal
        request = TurnRequest("alice", "responses", create.facts, 0.0, 0.0)
        return WebSocketTurn(request, lambda: None, week_start=None, is_prewarm=False)

    def note(self, limits: RateLimits) -> None:
        """Nobody asks."""

    def record(self, end: TurnEnded[WebSocketTurn], on_recorded: Callable[[], None]) -> bool:
        """Remember it."""
        self.ends.append((end.outcome.status, on_recorded))
        return True


class Clock:
    """The loop's clock, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """As ``time.monotonic``."""
        return time.monotonic() + self.ahead


class Passage:
    """A tunnel between two socket pairs, and its far ends.

    :param upstream: both ends of the connection to upstream, where it is to be another.
    """

    def __init__(
        self,
        resources: ExitStack,
        clock: Clock | None = None,
        *,
        upstream: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.loop = Loop()
        resources.callback(self.loop.close)
        near, self.upstream = map(resources.enter_context, upstream or socket.socketpair())
        client, self.client = map(resources.enter_context, socket.socketpair())
        self.speaker = Peer(is_client=True)
        self.body = Body(near)
        self.ledger = Ledger()
        self.ends: list[str] = []
        self.tunnel = Tunnel(
            self.loop,
            WebSocketSession(None),
            self.ledger,  # type: ignore[arg-type]  # a fake
            upstream=self.body,
            client=client,
            early=b"",
            timeouts=TIMEOUTS,
            submit=lambda step: step(),
            defer=lambda callback: callback(),
            on_end=self.ends.append,
        )
        self.tunnel.start()

    def run(self) -> None:
        """Serve what is ready."""
        self.loop.run(0.05)

    def ask(self) -> None:
        """Have a turn begun."""
        self.client.sendall(self.speaker.text(CREATE))
        self.run()
        assert self.upstream.recv(1000)

    def fill(self, sender: socket.socket, data: bytes) -> None:
        """Send until nothing more is taken, the same again and again."""
        sender.setblocking(False)
        waiting = data
        for _ in range(200):
            try:
                waiting = waiting[sender.send(waiting) :] or data
            except BlockingIOError:
                self.loop.run(0.001)

    def ends_after(self, seconds: float) -> list[str]:
        """How it has ended so many seconds from the last time that something was ready."""
        self.tunnel.check(self.loop.now + seconds)
        return self.ends


@pytest.fixture
def passage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passage]:
    """A tunnel that is open."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    with ExitStack() as resources:
        yield Passage(resources, clock)


def test_a_client_that_takes_nothing(passage: Passage) -> None:
    """It is ended when its time is over, though it goes on speaking; its turn is recorded as cut."""
    passage.ask()
    passage.fill(passage.upstream, Peer().text(DELTA))
    passage.clock.ahead = TIMEOUTS.stall_seconds / 2
    passage.client.sendall(passage.speaker.frame(Opcode.PING, b""))
    passage.run()
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [CLIENT_STALLED]
    assert passage.body.fate == ["closed"]
    assert [status for status, _ in passage.ledger.ends] == ["cut"]


def test_an_upstream_that_takes_nothing(passage: Passage) -> None:
    """It is ended when its time is over, though it goes on speaking, and the client is not read from meanwhile."""
    passage.fill(passage.client, passage.speaker.frame(Opcode.PING, b"x" * 125) * 500)
    passage.clock.ahead = TIMEOUTS.stall_seconds / 2
    passage.upstream.sendall(Peer().frame(Opcode.PING, b""))
    passage.run()
    assert passage.client.recv(10) == Peer().frame(Opcode.PING, b"")
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [UPSTREAM_STALLED]


def test_an_upstream_that_takes_nothing_while_the_client_is_slow(passage: Passage) -> None:
    """A client that is slow, but takes what it gets, does not lengthen upstream's time."""
    passage.fill(passage.upstream, Peer().text(DELTA))
    passage.fill(passage.client, passage.speaker.frame(Opcode.PING, b"x" * 125) * 500)
    passage.clock.ahead = TIMEOUTS.stall_seconds / 2
    passage.client.recv(2**20)
    passage.fill(passage.upstream, Peer().text(DELTA))
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert passage.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [UPSTREAM_STALLED]


def test_an_upstream_that_is_silent_in_a_turn(passage: Passage) -> None:
    """At its deadline the client gets a Close frame, and the turn is recorded as cut."""
    passage.ask()
    passage.upstream.sendall(Peer().text(b'{"type":"response.created"}'))
    passage.run()
    assert passage.client.recv(1000)
    assert passage.ends_after(TIMEOUTS.silence_seconds - 1) == []
    assert passage.ends_after(TIMEOUTS.silence_seconds + 1) == [SILENT]
    assert passage.client.recv(1000) == server_close(INTERNAL_ERROR, "OpenAI was silent for too long.")
    assert [status for status, _ in passage.ledger.ends] == ["cut"]
    assert passage.upstream.recv(10) == b""


def test_an_upstream_that_is_silent_in_a_message(passage: Passage) -> None:
    """Where no Close frame can stand there is none: what the client sees is a connection that was cut."""
    passage.ask()
    message = Peer().text(DELTA)
    passage.upstream.sendall(message[:1000])
    passage.run()
    assert passage.client.recv(2000) == message[:1000]
    assert passage.ends_after(TIMEOUTS.silence_seconds + 1) == [SILENT]
    passage.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        passage.client.recv(10)


def test_idle_between_turns(passage: Passage) -> None:
    """Before the first turn and after one that has ended, silence is allowed."""
    assert passage.ends_after(10 * TIMEOUTS.silence_seconds) == []
    passage.ask()
    passage.upstream.sendall(Peer().text(COMPLETED))
    passage.run()
    ((status, on_recorded),) = passage.ledger.ends
    on_recorded()
    assert passage.client.recv(1000) == Peer().text(COMPLETED)
    assert status == "completed"
    assert passage.ends_after(10 * TIMEOUTS.silence_seconds) == []


def test_a_turn_asked_for_after_a_long_rest(passage: Passage) -> None:
    """Upstream has its whole time from when it is asked; that it was idle before does not count."""
    passage.clock.ahead = 2 * TIMEOUTS.silence_seconds
    passage.ask()
    assert passage.ends_after(TIMEOUTS.silence_seconds - 1) == []


def test_a_record_that_takes_too_long(passage: Passage) -> None:
    """The end of a turn goes to the client when its record is safe, or has taken too long."""
    passage.ask()
    passage.upstream.sendall(Peer().text(COMPLETED))
    passage.run()
    passage.client.setblocking(False)
    passage.tunnel.check(passage.loop.now + TIMEOUTS.record_seconds - 1)
    with pytest.raises(BlockingIOError):
        passage.client.recv(1000)
    assert passage.ends_after(TIMEOUTS.record_seconds + 1) == []
    assert passage.client.recv(1000) == Peer().text(COMPLETED)


def test_a_cut_before_upstream_has_answered(passage: Passage) -> None:
    """A turn that upstream was asked for is recorded as cut, though it said nothing."""
    passage.ask()
    passage.tunnel.abort("service stopped")
    assert [status for status, _ in passage.ledger.ends] == ["cut"]


def test_a_refusal_within_a_message(passage: Passage) -> None:
    """It waits for the end of the message that upstream has begun, and comes right behind it."""
    passage.ask()
    message = Peer().text(DELTA)
    passage.upstream.sendall(message[:1000])
    passage.run()
    passage.ledger.refusal = UserRejected("Not any more.")
    passage.client.sendall(passage.speaker.text(CREATE))
    passage.run()
    passage.upstream.sendall(message[1000:])
    passage.run()
    assert passage.client.recv(200_000) == message + refusal_message(passage.ledger.refusal)


def test_leaving_within_a_turn(passage: Passage) -> None:
    """The socket is left between two turns: the one under way ends first, then comes the Close frame."""
    passage.ask()
    passage.tunnel.close_when_idle()
    assert passage.ends == []
    passage.upstream.sendall(Peer().text(COMPLETED))
    passage.run()
    passage.ledger.ends[0][1]()
    passage.run()
    assert passage.client.recv(1000) == Peer().text(COMPLETED) + server_close(GOING_AWAY)
    assert passage.ends == [""]
