"""WebSockets under fault: each turn is asked for once and recorded truthfully, once, and nobody else notices."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from ocm_wsgi.simulator import Gate, Plan
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User
from tests.conftest import BOB
from tests.faults.outages import fill, locked_by_another, small_file_system
from tests.faults.stack import (
    GONE_SECONDS,
    LAST_EVENT,
    WAIT_SECONDS,
    Background,
    Stack,
    bystander,
    eventually,
    peak_kib,
    rows_of,
    upstream_connections,
    workers_of,
)
from tests.faults.websockets_through import CREATE, Talk, statuses, talk, upstream_that_says
from tests.websocket_peers import Peer

WAYS = ["nginx", "direct"]
FRAGMENTS = 300_000
OVERSIZED = 65 * 2**20

#: What upstream may do in the midst of a turn, with the Close code that the client gets of it.
CUT = {
    "reset": (Plan(reset_after=3), None),
    "closed": (Plan(cut_after=3), None),
    "close-frame": (Plan(cut_after=3, close_code=1011, close_reason="internal"), 1011),
    "said-goodbye": (Plan(cut_after=3, close_code=1000), 1000),
    "without-its-end": (Plan(terminal=None, events=1, cut_after=LAST_EVENT - 1, close_code=1000), 1000),
}

_HELLO = Peer().text(b'{"type":"response.created"}')
#: What no server may send (RFC 6455 section 5), behind a message that is good.
GARBAGE = {
    "masked": _HELLO + Peer(is_client=True).text(b"{}"),
    "reserved-opcode": _HELLO + b"\x83\x02{}",
    "reserved-bit": _HELLO + b"\xf1\x02{}",
    "half-a-frame": _HELLO + b"\x81\x7e\xff\xff{",
    "no-frames-at-all": b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
    "cut-in-a-message": b"\x01\x1b" + _HELLO[2:],
}

_ASKING = Peer(is_client=True).text(json.dumps(CREATE).encode())
#: What no client may send, with the code that it is sent away with.
BROKEN = {
    "unmasked": (Peer().text(json.dumps(CREATE).encode()), 1002),
    "reserved-opcode": (b"\x83" + _ASKING[1:], 1002),
    "a-message-within-another": (b"\x01" + _ASKING[1:] + _ASKING, 1002),
    "too-large": (b"\x81\xff" + OVERSIZED.to_bytes(8, "big") + bytes(4) + b" " * OVERSIZED, 1009),
    "too-many-fragments": (b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * FRAGMENTS, 1009),
}


def begun(stack: Stack, gate: Gate, client: Talk) -> Talk:
    """Have a turn under way that stands at a gate."""
    stack.simulator.plan(Plan(gate=gate, events=1))
    client.ask()
    assert gate.reached.wait(WAIT_SECONDS)
    return client


@contextmanager
def socket_bystander(stack: Stack) -> Iterator[None]:
    """As ``bystander``, on a WebSocket."""
    gate = Gate().after(3)
    with talk(stack, BOB) as client:
        begun(stack, gate, client)
        yield
        gate.release()
        assert client.hear()["type"] == "response.completed"
    assert statuses(stack, client) == ["completed"]


def is_closed_with(code: int | None, ended: Talk) -> bool:
    """Whether the connection ended with this code of the other side, or without a word."""
    received = ended.hear_the_end().rcvd
    return (received.code if received else None) == code


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("step", [1, LAST_EVENT - 1])
def test_socket_whose_worker_is_killed(start_stack: Callable[..., Stack], step: int, compression: str | None) -> None:
    """What had ended is recorded once; what had not looks cut, upstream knows within a second, others go on."""
    stack = start_stack(workers=2)
    simulator = stack.simulator
    with ExitStack() as sockets:
        victim = sockets.enter_context(talk(stack, compression=compression))
        assert victim.turn() == "response.completed"
        (process,) = upstream_connections(stack.running)
        begun(stack, Gate().after(step), victim)
        others: list[tuple[Gate, Talk]] = []
        while not upstream_connections(stack.running).keys() - {process}:
            gate = Gate().after(3)
            others.append((gate, begun(stack, gate, sockets.enter_context(talk(stack, BOB)))))
        (surviving,) = [count for pid, count in upstream_connections(stack.running).items() if pid != process]
        os.kill(process, signal.SIGKILL)
        assert simulator.wait_for(lambda: simulator.open_connections <= surviving, GONE_SECONDS)
        for gate, _ in others:
            gate.release()
        assert is_closed_with(None, victim)
        _, last = others[-1]
        assert last.hear()["type"] == "response.completed"
    assert statuses(stack, victim, last) == ["completed"] * 2
    assert len(simulator.turns) == len(others) + 2
    assert stack.serves()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("plan", "code"), CUT.values(), ids=CUT)
def test_socket_cut_by_upstream(stack: Stack, plan: Plan, code: int | None, way: str) -> None:
    """The client hears of it as upstream told it, the turn is recorded once, as cut, and asked for once."""
    with socket_bystander(stack), talk(stack, way=way) as cut:
        stack.simulator.plan(plan)
        cut.ask()
        assert is_closed_with(code, cut)
        assert eventually(lambda: statuses(stack, cut) == ["cut"])
    assert len(stack.simulator.turns) == 2


@pytest.mark.parametrize("octets", GARBAGE.values(), ids=GARBAGE)
def test_socket_with_garbage_of_upstream(start_stack: Callable[..., Stack], octets: bytes) -> None:
    """What makes no sense is passed on, or ends the socket, and the turn is recorded once, as cut."""
    with upstream_that_says(octets) as url:
        stack = start_stack(workers=1, chatgpt_base_url=url)
        with talk(stack) as spoilt:
            spoilt.ask()
            spoilt.hear_the_end()
        assert eventually(lambda: statuses(stack, spoilt) == ["cut"])
        assert len(stack.rows()) == 1
        assert stack.running.stop() == 0
    assert "Traceback" not in stack.running.log_text()


@pytest.mark.parametrize("way", WAYS)
def test_sockets_that_leave(stack: Stack, way: str) -> None:
    """Twenty clients that go without a word in mid-turn end their upstream sockets within a second, others go on."""
    simulator = stack.simulator
    with bystander(stack), socket_bystander(stack):
        simulator.plan(Plan(silence_after=2), times=20)
        with ExitStack() as clients:
            talks = [clients.enter_context(talk(stack, way=way)) for _ in range(20)]
            for each in talks:
                each.ask()
            assert simulator.wait_for(lambda: simulator.open_streams == 22, WAIT_SECONDS)
            for each in talks:
                each.client.socket.shutdown(2)
            assert simulator.wait_for(lambda: simulator.open_streams == 2, GONE_SECONDS)
    assert eventually(lambda: statuses(stack, *talks) == ["cut"] * 20)


@pytest.mark.parametrize("way", WAYS)
def test_socket_that_reads_nothing(stack: Stack, way: str) -> None:
    """Clients that take nothing of long answers slow nobody down and grow no worker by what they do not take."""
    simulator = stack.simulator
    before = peak_kib(stack)
    simulator.plan(Plan(events=64, event_bytes=2**20), times=4)
    with ExitStack() as clients:
        talks = [clients.enter_context(talk(stack, way=way)) for _ in range(4)]
        for each in talks:
            each.ask()
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
        assert stack.serves()
        with socket_bystander(stack):
            assert not eventually(lambda: peak_kib(stack) - before > 48 * 1024, seconds=1)
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
        for each in talks:
            each.client.socket.shutdown(2)
    assert eventually(lambda: statuses(stack, *talks) == ["cut"] * 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("octets", "code"), BROKEN.values(), ids=BROKEN)
def test_socket_that_breaks_the_protocol(stack: Stack, octets: bytes, code: int, way: str) -> None:
    """It is sent away with a code that says why, and upstream sees nothing of what it said."""
    with socket_bystander(stack), talk(stack, way=way) as broken:
        assert broken.turn() == "response.completed"
        sending = Background(lambda: broken.client.socket.sendall(octets))
        assert is_closed_with(code, broken)
        sending.answer()
    assert statuses(stack, broken) == ["completed"]
    assert len(stack.simulator.turns) == 2


@pytest.mark.parametrize("compression", ["deflate", None])
def test_socket_whose_end_is_seen_while_the_database_is_locked(
    start_stack: Callable[..., Stack], compression: str | None
) -> None:
    """A turn that a client saw end is recorded once, though the database was locked and all workers killed then."""
    stack = start_stack(workers=2)
    assert stack.turn().has_ended
    with locked_by_another(stack.running.state_path / "ocm.db"), talk(stack, compression=compression) as seen:
        assert seen.turn() == "response.completed"
        for pid in workers_of(stack.running):
            os.kill(pid, signal.SIGKILL)
        assert is_closed_with(None, seen)
    assert eventually(lambda: statuses(stack, seen) == ["completed"])
    assert stack.serves()
    assert statuses(stack, seen) == ["completed"]


def test_socket_while_the_disk_is_full(start_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Turns end as usual, and are written once when there is room."""
    state = tmp_path / "small"
    with small_file_system(state):
        stack = start_stack(workers=1, state_path=str(state))
        with talk(stack) as client:
            assert client.turn() == "response.completed"
            fill(state / "filler")
            assert [client.turn() for _ in range(4)] == ["response.completed"] * 4
            (state / "filler").unlink()
            assert client.turn() == "response.completed"
        expected = [("alice", "completed", client.request_id)] * 6
        assert eventually(lambda: rows_of(state) == expected, seconds=40)
        assert stack.running.stop() == 0


def test_socket_whose_credential_is_replaced(start_stack: Callable[..., Stack]) -> None:
    """An open socket stays with its sign-in; the next one has token and account of the new one."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    path = stack.running.credential_path
    with talk(stack) as old:
        assert old.turn() == "response.completed"
        fresh = path.with_name("fresh")
        fresh.write_text(json.dumps(simulator.credential(account="acct-new")))
        fresh.replace(path)
        with talk(stack) as new:
            assert [old.turn(), new.turn(), old.turn()] == ["response.completed"] * 3
    accounts = [seen.field("chatgpt-account-id") for seen in simulator.requests]
    assert len(accounts) == 2
    assert accounts[0] != accounts[1] == "acct-new"
    assert statuses(stack, old, new) == ["completed"] * 4
    assert simulator.refreshes == []


def test_socket_of_a_user_who_is_removed(start_stack: Callable[..., Stack]) -> None:
    """The turn under way ends whole and is recorded; the next is refused, and a new socket too."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    assert stack.turn().has_ended
    accounts = Accounts([], Database(f"sqlite:///{stack.running.state_path / 'ocm.db'}"))
    token = accounts.add(User("carol"), actor="cli")
    gate = Gate().after(3)
    with socket_bystander(stack), talk(stack, token) as removed:
        simulator.plan(Plan(gate=gate))
        removed.ask()
        assert gate.reached.wait(WAIT_SECONDS)
        accounts.remove("carol", actor="cli")
        gate.release()
        assert removed.hear()["type"] == "response.completed"
        removed.ask()
        assert removed.hear()["status"] == 401
        with pytest.raises(InvalidStatus, match="401"), talk(stack, token):
            pass
    assert statuses(stack, removed) == ["completed"]
    assert len(simulator.turns) == 3
