"""Deadlines of WebSockets: one that misses its deadline is closed, and one that may be idle is not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from websockets.frames import Opcode

from ocm_wsgi.accounting.turn_accounting import TurnRequest
from ocm_wsgi.errors import OcmError, UserRejected
from ocm_wsgi.protocol.websocket.frames import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    server_close,
)
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.refusals import refusal_message
from ocm_wsgi.protocol.websocket.session import TurnEnded, WebSocketSession
from ocm_wsgi.relay import loop
from ocm_wsgi.relay.held_memory import FREE_BYTES, HeldMemory
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.read_on import READ_ON_SECONDS, ReadOns
from ocm_wsgi.relay.stream import CLIENT_LEFT, CLIENT_STALLED
from ocm_wsgi.relay.tunnel import MESSAGE_STALLED, TOO_MUCH_HELD, UPSTREAM_STALLED, Tunnel
from ocm_wsgi.relay.websocket_rest import WebSocketRest
from ocm_wsgi.relay.websocket_turns import SharedSlot, WebSocketTurn
from tests.relay.test_deadlines import TIMEOUTS, Body
from tests.websocket_peers import Peer

CREATE = b'{"type":"response.create","model":"gpt-5.5"}'
DELTA = b'{"type":"response.output_text.delta","delta":"' + b"x" * 60_000 + b'"}'
COMPLETED = b'{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}}'
HELD_BYTES = 1024 * 1024
SILENT = "upstream cut it: it was silent for too long"


class Ledger:
    """A fake that admits and records the turns of a WebSocket; the test decides when a record is saved.

    :ivar refusal: the error with which each turn is refused; ``None`` admits it.
    :ivar ends: for each turn, how it ended and the callback to call when it is recorded.
    """

    def __init__(self) -> None:
        self.user = "alice"
        self.reads_on = False
        self.refusal: OcmError | None = None
        self.ends: list[tuple[str, Callable[[], None]]] = []

    def admit(self, held: HeldMessage, _session: object) -> WebSocketTurn:
        """Admit the turn, or raise the refusal."""
        message = held.read()
        if self.refusal is not None:
            raise self.refusal
        request = TurnRequest("alice", "responses", message.facts, 0.0, 0.0)
        return WebSocketTurn(request, SharedSlot(lambda: None), lambda: None, week_start=None, message=message)

    def note(self, event: object) -> None:
        """Ignore it."""

    def settle(self, items: Iterable[object], *, was_left: bool) -> None:
        """Append what has ended to ``ends``."""
        for item in items:
            if isinstance(item, TurnEnded):
                self.record(item, lambda: None)

    def record(self, end: TurnEnded[WebSocketTurn], on_recorded: Callable[[], None]) -> bool:
        """Append it to ``ends``."""
        self.ends.append((end.outcome.status, on_recorded))
        return True


def _unexpected(_model: str | None) -> WebSocketTurn:
    raise AssertionError("upstream has created a response that no message asked for")


class Clock:
    """The loop's clock, which a test can move forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Return the time, like ``time.monotonic``."""
        return time.monotonic() + self.ahead


class TunnelHarness:
    """A tunnel between two socket pairs, with their far ends.

    :param upstream: both ends of the connection to upstream; a new socket pair by default.
    """

    def __init__(
        self,
        resources: ExitStack,
        clock: Clock | None = None,
        *,
        upstream: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.read_ons = ReadOns(most_per_user=1)
        self.loop = Loop()
        resources.callback(self.loop.close)
        near, self.upstream = map(resources.enter_context, upstream or socket.socketpair())
        client, self.client = map(resources.enter_context, socket.socketpair())
        self.peer = Peer(is_client=True)
        self.body = Body(near)
        self.ledger = Ledger()
        self.memory = HeldMemory(user_limit=HELD_BYTES)
        self.ends: list[str] = []
        self.tunnel = Tunnel(
            self.loop,
            WebSocketSession(None, _unexpected),
            self.ledger,  # type: ignore[arg-type]  # a fake
            upstream=self.body,
            client=client,
            early=b"",
            timeouts=TIMEOUTS,
            read_ons=self.read_ons,
            held=self.memory.share("alice"),
            submit=lambda step: step(),
            defer=lambda callback: callback(),
            on_end=self.ends.append,
        )
        self.tunnel.start()

    def run(self) -> None:
        """Handle the sockets that are ready."""
        self.loop.run(0.05)

    def send_slowly(self, data: bytes) -> None:
        """Send data from the client as far as the tunnel reads it."""
        self.client.setblocking(False)
        unsent = memoryview(data)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                unsent = unsent[self.client.send(unsent) :] if unsent else unsent
            self.loop.run(0.001)

    def begin_turn(self) -> None:
        """Begin a turn."""
        self.client.sendall(self.peer.text(CREATE))
        self.run()
        assert self.upstream.recv(1000)

    def fill(self, sender: socket.socket, data: bytes) -> None:
        """Send the same data repeatedly until all buffers are full."""
        sender.setblocking(False)
        unsent = data
        for _ in range(200):
            try:
                unsent = unsent[sender.send(unsent) :] or data
            except BlockingIOError:
                self.loop.run(0.001)

    def ends_after(self, seconds: float) -> list[str]:
        """Return how the tunnel has ended the given number of seconds after the loop's last event."""
        self.tunnel.check(self.loop.now + seconds)
        return self.ends


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[TunnelHarness]:
    """An open tunnel."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    with ExitStack() as resources:
        yield TunnelHarness(resources, clock)


def test_client_that_reads_nothing(harness: TunnelHarness) -> None:
    """It is disconnected at its deadline even if it keeps sending; its turn is recorded as cut."""
    harness.begin_turn()
    harness.fill(harness.upstream, Peer().text(DELTA))
    harness.clock.ahead = TIMEOUTS.stall_seconds / 2
    harness.client.sendall(harness.peer.frame(Opcode.PING, b""))
    harness.run()
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [CLIENT_STALLED]
    assert harness.body.fate == ["closed"]
    assert [status for status, _ in harness.ledger.ends] == ["cut"]


def test_upstream_that_reads_nothing(harness: TunnelHarness) -> None:
    """It is disconnected at its deadline even if it keeps sending; until then the client is not read from."""
    harness.fill(harness.client, harness.peer.frame(Opcode.PING, b"x" * 125) * 500)
    harness.clock.ahead = TIMEOUTS.stall_seconds / 2
    harness.upstream.sendall(Peer().frame(Opcode.PING, b""))
    harness.run()
    assert harness.client.recv(10) == Peer().frame(Opcode.PING, b"")
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [UPSTREAM_STALLED]


def test_upstream_that_reads_nothing_while_the_client_is_slow(harness: TunnelHarness) -> None:
    """A client that is slow but keeps reading does not extend upstream's deadline."""
    harness.fill(harness.upstream, Peer().text(DELTA))
    harness.fill(harness.client, harness.peer.frame(Opcode.PING, b"x" * 125) * 500)
    harness.clock.ahead = TIMEOUTS.stall_seconds / 2
    harness.client.recv(2**20)
    harness.fill(harness.upstream, Peer().text(DELTA))
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 - 5) == []
    assert harness.ends_after(TIMEOUTS.stall_seconds / 2 + 1) == [UPSTREAM_STALLED]


def test_upstream_silent_within_a_turn(harness: TunnelHarness) -> None:
    """At its deadline the client gets a Close frame, and the turn is recorded as cut."""
    harness.begin_turn()
    harness.upstream.sendall(Peer().text(b'{"type":"response.created"}'))
    harness.run()
    assert harness.client.recv(1000)
    assert harness.ends_after(TIMEOUTS.silence_seconds - 1) == []
    assert harness.ends_after(TIMEOUTS.silence_seconds + 1) == [SILENT]
    assert harness.client.recv(1000) == server_close(INTERNAL_ERROR, "OpenAI was silent for too long.")
    assert [status for status, _ in harness.ledger.ends] == ["cut"]
    assert harness.upstream.recv(10) == b""


def test_upstream_silent_within_a_message(harness: TunnelHarness) -> None:
    """No Close frame is sent in the middle of a message: the client sees a dropped connection."""
    harness.begin_turn()
    message = Peer().text(DELTA)
    harness.upstream.sendall(message[:1000])
    harness.run()
    assert harness.client.recv(2000) == message[:1000]
    assert harness.ends_after(TIMEOUTS.silence_seconds + 1) == [SILENT]
    harness.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        harness.client.recv(10)


def test_idle_between_turns(harness: TunnelHarness) -> None:
    """Upstream may be silent before the first turn and between turns."""
    assert harness.ends_after(10 * TIMEOUTS.silence_seconds) == []
    harness.begin_turn()
    harness.upstream.sendall(Peer().text(COMPLETED))
    harness.run()
    ((status, on_recorded),) = harness.ledger.ends
    on_recorded()
    assert harness.client.recv(1000) == Peer().text(COMPLETED)
    assert status == "completed"
    assert harness.ends_after(10 * TIMEOUTS.silence_seconds) == []


def test_turn_after_a_long_idle_period(harness: TunnelHarness) -> None:
    """Upstream's deadline counts from the start of the turn; the idle time before it does not matter."""
    harness.clock.ahead = 2 * TIMEOUTS.silence_seconds
    harness.begin_turn()
    assert harness.ends_after(TIMEOUTS.silence_seconds - 1) == []


def test_slow_record(harness: TunnelHarness) -> None:
    """The end of a turn is sent to the client once it is recorded, or once recording it has taken too long."""
    harness.begin_turn()
    harness.upstream.sendall(Peer().text(COMPLETED))
    harness.run()
    harness.client.setblocking(False)
    harness.tunnel.check(harness.loop.now + TIMEOUTS.record_seconds - 1)
    with pytest.raises(BlockingIOError):
        harness.client.recv(1000)
    assert harness.ends_after(TIMEOUTS.record_seconds + 1) == []
    assert harness.client.recv(1000) == Peer().text(COMPLETED)


def test_abort_before_upstream_has_responded(harness: TunnelHarness) -> None:
    """A turn that was sent upstream is recorded as cut even if upstream has sent nothing."""
    harness.begin_turn()
    harness.tunnel.abort("service stopped")
    assert [status for status, _ in harness.ledger.ends] == ["cut"]


def test_reading_on(harness: TunnelHarness) -> None:
    """Without its client, an open turn of a user with limits is read on for some seconds, then recorded as cut."""
    harness.ledger.reads_on = True
    harness.begin_turn()
    harness.client.close()
    harness.run()
    assert (harness.ends, harness.ledger.ends, harness.body.fate) == ([CLIENT_LEFT], [], [])
    (rest,) = harness.read_ons.rests
    assert isinstance(rest, WebSocketRest)
    harness.upstream.sendall(Peer().text(DELTA))
    harness.run()
    rest.check(harness.loop.now + READ_ON_SECONDS - 1)
    assert harness.read_ons.rests == {rest}
    rest.check(harness.loop.now + READ_ON_SECONDS + 1)
    assert [status for status, _ in harness.ledger.ends] == ["cut"]
    assert (harness.body.fate, harness.read_ons.rests) == (["closed"], set())
    assert harness.read_ons.begin("alice")


@pytest.mark.parametrize("reason", ["no-limits", "too-many", "no-turn"])
def test_not_reading_on(harness: TunnelHarness, reason: str) -> None:
    """Without limits, beyond the bounds, or without an open turn, nothing is read without a client."""
    harness.ledger.reads_on = reason != "no-limits"
    if reason == "too-many":
        assert harness.read_ons.begin("alice")
    if reason != "no-turn":
        harness.begin_turn()
    harness.client.close()
    harness.run()
    assert (harness.ends, harness.body.fate, harness.read_ons.rests) == ([CLIENT_LEFT], ["closed"], set())
    assert len(harness.ledger.ends) == (reason != "no-turn")


def test_a_refusal_within_a_message(harness: TunnelHarness) -> None:
    """It is sent immediately after the message that upstream has begun."""
    harness.begin_turn()
    message = Peer().text(DELTA)
    harness.upstream.sendall(message[:1000])
    harness.run()
    harness.ledger.refusal = UserRejected("Not any more.")
    harness.client.sendall(harness.peer.text(CREATE))
    harness.run()
    harness.upstream.sendall(message[1000:])
    harness.run()
    assert harness.client.recv(200_000) == message + refusal_message(harness.ledger.refusal)


def test_close_when_idle_waits_for_the_open_turn(harness: TunnelHarness) -> None:
    """The open turn completes first, and then the Close frame is sent."""
    harness.begin_turn()
    harness.tunnel.close_when_idle()
    assert harness.ends == []
    harness.upstream.sendall(Peer().text(COMPLETED))
    harness.run()
    harness.ledger.ends[0][1]()
    harness.run()
    assert harness.client.recv(1000) == Peer().text(COMPLETED) + server_close(GOING_AWAY)
    assert harness.ends == [""]


def test_unfinished_message(harness: TunnelHarness) -> None:
    """A client that leaves a message unfinished is disconnected at a deadline, which begins with its last octet."""
    message = harness.peer.text(CREATE)
    harness.client.sendall(message[:5])
    harness.run()
    harness.clock.ahead = TIMEOUTS.stall_seconds / 2
    harness.client.sendall(message[5:-1])
    harness.run()
    assert harness.ends_after(TIMEOUTS.stall_seconds - 5) == []
    assert harness.ends_after(TIMEOUTS.stall_seconds + 5) == [MESSAGE_STALLED]
    assert harness.client.recv(1000) == server_close(POLICY_VIOLATION, "A message was left unfinished.")


def test_unfinished_message_while_the_client_is_not_read_from(harness: TunnelHarness) -> None:
    """A client cannot finish its message while an earlier one is being decided."""
    decisions: list[Callable[[], None]] = []
    harness.tunnel._submit = decisions.append
    message = harness.peer.text(CREATE)
    harness.client.sendall(message + message[:5])
    harness.run()
    assert harness.ends_after(TIMEOUTS.stall_seconds + 5) == []
    harness.clock.ahead = TIMEOUTS.stall_seconds + 5
    decisions.pop()()
    harness.run()
    assert harness.ends_after(TIMEOUTS.stall_seconds - 5) == []


def test_too_much_held(harness: TunnelHarness) -> None:
    """A WebSocket that holds too much of an unfinished message is closed."""
    harness.send_slowly(harness.peer.text(b" " * 3_000_000)[:-1])
    assert harness.ends == [TOO_MUCH_HELD]
    assert harness.client.recv(1000) == server_close(TRY_AGAIN_LATER, "Too many long messages at once.")
    assert harness.memory.total == 0


def test_unsent_messages_count(harness: TunnelHarness) -> None:
    """What upstream has not accepted yet is held, too."""
    message = harness.peer.text(CREATE[:-1] + b',"x":"' + b"x" * 1_000_000 + b'"}')
    harness.send_slowly(message)
    assert harness.ends == []
    accepted = len(harness.upstream.recv(2_000_000, socket.MSG_PEEK))
    assert harness.memory.total == len(message) - accepted - FREE_BYTES
