"""Faults on WebSockets: each turn is sent once and recorded truthfully, once; nobody else is affected."""

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
from tests.faults.websockets_through import CREATE, SocketClient, open_socket, statuses, upstream_sending
from tests.websocket_peers import Peer

ROUTES = ["nginx", "direct"]
FRAGMENTS = 300_000
OVERSIZED = 65 * 2**20

#: What upstream may do in the middle of a turn, and the Close code that the client gets.
CUT = {
    "reset": (Plan(reset_after=3), None),
    "closed": (Plan(cut_after=3), None),
    "close-frame": (Plan(cut_after=3, close_code=1011, close_reason="internal"), 1011),
    "normal-closure": (Plan(cut_after=3, close_code=1000), 1000),
    "without-terminal-event": (Plan(terminal=None, events=1, cut_after=LAST_EVENT - 1, close_code=1000), 1000),
}

_HELLO = Peer().text(b'{"type":"response.created"}')
#: Data that no server may send (RFC 6455 section 5), after a valid message.
GARBAGE = {
    "masked": _HELLO + Peer(is_client=True).text(b"{}"),
    "reserved-opcode": _HELLO + b"\x83\x02{}",
    "reserved-bit": _HELLO + b"\xf1\x02{}",
    "half-a-frame": _HELLO + b"\x81\x7e\xff\xff{",
    "not-a-frame": b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
    "cut-off-in-a-message": b"\x01\x1b" + _HELLO[2:],
}

_CREATE_FRAME = Peer(is_client=True).text(json.dumps(CREATE).encode())
#: Data that no client may send, and the Close code that it gets.
BROKEN = {
    "unmasked": (Peer().text(json.dumps(CREATE).encode()), 1002),
    "reserved-opcode": (b"\x83" + _CREATE_FRAME[1:], 1002),
    "a-message-within-another": (b"\x01" + _CREATE_FRAME[1:] + _CREATE_FRAME, 1002),
    "too-large": (b"\x81\xff" + OVERSIZED.to_bytes(8, "big") + bytes(4) + b" " * OVERSIZED, 1009),
    "too-many-fragments": (b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * FRAGMENTS, 1009),
}


def start_held_turn(stack: Stack, gate: Gate, client: SocketClient) -> SocketClient:
    """Start a turn that is held at a gate."""
    stack.simulator.plan(Plan(gate=gate, events=1))
    client.ask()
    assert gate.reached.wait(WAIT_SECONDS)
    return client


@contextmanager
def socket_bystander(stack: Stack) -> Iterator[None]:
    """Like ``bystander``, on a WebSocket."""
    gate = Gate().after(3)
    with open_socket(stack, BOB) as client:
        start_held_turn(stack, gate, client)
        yield
        gate.release()
        assert client.receive_turn()["type"] == "response.completed"
    assert statuses(stack, client) == ["completed"]


def is_closed_with(code: int | None, ended: SocketClient) -> bool:
    """Return whether the connection ended with this Close code, or with ``None`` without a Close frame."""
    received = ended.receive_until_close().rcvd
    return (received.code if received else None) == code


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("step", [1, LAST_EVENT - 1])
def test_socket_whose_worker_is_killed(start_stack: Callable[..., Stack], step: int, compression: str | None) -> None:
    """Completed turns are recorded once, the open one is cut off, upstream sees it within a second, others continue."""
    stack = start_stack(workers=2)
    simulator = stack.simulator
    with ExitStack() as sockets:
        victim = sockets.enter_context(open_socket(stack, compression=compression))
        assert victim.turn() == "response.completed"
        (process,) = upstream_connections(stack.running)
        start_held_turn(stack, Gate().after(step), victim)
        others: list[tuple[Gate, SocketClient]] = []
        while not upstream_connections(stack.running).keys() - {process}:
            gate = Gate().after(3)
            others.append((gate, start_held_turn(stack, gate, sockets.enter_context(open_socket(stack, BOB)))))
        (surviving,) = [count for pid, count in upstream_connections(stack.running).items() if pid != process]
        os.kill(process, signal.SIGKILL)
        assert simulator.wait_for(lambda: simulator.open_connections <= surviving, GONE_SECONDS)
        for gate, _ in others:
            gate.release()
        assert is_closed_with(None, victim)
        _, last = others[-1]
        assert last.receive_turn()["type"] == "response.completed"
    assert statuses(stack, victim, last) == ["completed"] * 2
    assert len(simulator.turns) == len(others) + 2
    assert stack.serves()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("plan", "code"), CUT.values(), ids=CUT)
def test_socket_cut_by_upstream(stack: Stack, plan: Plan, code: int | None, route: str) -> None:
    """The client sees the same end as upstream sent; the turn is sent once and recorded once, as cut."""
    with socket_bystander(stack), open_socket(stack, route=route) as cut:
        stack.simulator.plan(plan)
        cut.ask()
        assert is_closed_with(code, cut)
        assert eventually(lambda: statuses(stack, cut) == ["cut"])
    assert len(stack.simulator.turns) == 2


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_socket_with_garbage_from_upstream(start_stack: Callable[..., Stack], data: bytes) -> None:
    """Invalid data is forwarded or ends the socket, and the turn is recorded once, as cut."""
    with upstream_sending(data) as url:
        stack = start_stack(workers=1, chatgpt_base_url=url)
        with open_socket(stack) as spoilt:
            spoilt.ask()
            spoilt.receive_until_close()
        assert eventually(lambda: statuses(stack, spoilt) == ["cut"])
        assert len(stack.rows()) == 1
        assert stack.running.stop() == 0
    assert "Traceback" not in stack.running.log_text()


@pytest.mark.parametrize("route", ROUTES)
def test_sockets_that_disconnect(stack: Stack, route: str) -> None:
    """When twenty clients vanish in mid-turn, their upstream sockets close within a second; others continue."""
    simulator = stack.simulator
    with bystander(stack), socket_bystander(stack):
        simulator.plan(Plan(silence_after=2), times=20)
        with ExitStack() as clients:
            sockets = [clients.enter_context(open_socket(stack, route=route)) for _ in range(20)]
            for each in sockets:
                each.ask()
            assert simulator.wait_for(lambda: simulator.open_streams == 22, WAIT_SECONDS)
            for each in sockets:
                each.client.socket.shutdown(2)
            assert simulator.wait_for(lambda: simulator.open_streams == 2, GONE_SECONDS)
    assert eventually(lambda: statuses(stack, *sockets) == ["cut"] * 20)


@pytest.mark.parametrize("route", ROUTES)
def test_socket_that_does_not_read(stack: Stack, route: str) -> None:
    """Clients that do not read long responses slow nobody down, and workers do not buffer the unread data."""
    simulator = stack.simulator
    before = peak_kib(stack)
    simulator.plan(Plan(events=64, event_bytes=2**20), times=4)
    with ExitStack() as clients:
        sockets = [clients.enter_context(open_socket(stack, route=route)) for _ in range(4)]
        for each in sockets:
            each.ask()
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
        assert stack.serves()
        with socket_bystander(stack):
            assert not eventually(lambda: peak_kib(stack) - before > 48 * 1024, seconds=1)
        assert simulator.wait_for(lambda: simulator.open_streams == 4)
        for each in sockets:
            each.client.socket.shutdown(2)
    assert eventually(lambda: statuses(stack, *sockets) == ["cut"] * 4)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_socket_that_breaks_the_protocol(stack: Stack, data: bytes, code: int, route: str) -> None:
    """It is closed with a code that says why, and nothing of it is forwarded upstream."""
    with socket_bystander(stack), open_socket(stack, route=route) as broken:
        assert broken.turn() == "response.completed"
        sending = Background(lambda: broken.client.socket.sendall(data))
        assert is_closed_with(code, broken)
        sending.answer()
    assert statuses(stack, broken) == ["completed"]
    assert len(stack.simulator.turns) == 2


@pytest.mark.parametrize("compression", ["deflate", None])
def test_socket_turn_ends_while_the_database_is_locked(
    start_stack: Callable[..., Stack], compression: str | None
) -> None:
    """A turn that a client saw end is recorded once, although the database was locked and all workers were killed."""
    stack = start_stack(workers=2)
    assert stack.turn().has_ended
    with locked_by_another(stack.running.state_path / "ocm.db"), open_socket(stack, compression=compression) as seen:
        assert seen.turn() == "response.completed"
        for pid in workers_of(stack.running):
            os.kill(pid, signal.SIGKILL)
        assert is_closed_with(None, seen)
    assert eventually(lambda: statuses(stack, seen) == ["completed"])
    assert stack.serves()
    assert statuses(stack, seen) == ["completed"]


def test_socket_while_the_disk_is_full(start_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Turns end as usual, and are written once when there is space."""
    state = tmp_path / "small"
    with small_file_system(state):
        stack = start_stack(workers=1, state_path=str(state))
        with open_socket(stack) as client:
            assert client.turn() == "response.completed"
            fill(state / "filler")
            assert [client.turn() for _ in range(4)] == ["response.completed"] * 4
            (state / "filler").unlink()
            assert client.turn() == "response.completed"
        expected = [("alice", "completed", client.request_id)] * 6
        assert eventually(lambda: rows_of(state) == expected, seconds=40)
        assert stack.running.stop() == 0


def test_socket_whose_credential_is_replaced(start_stack: Callable[..., Stack]) -> None:
    """An open socket keeps its sign-in; the next one has the token and account of the new sign-in."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    path = stack.running.credential_path
    with open_socket(stack) as old:
        assert old.turn() == "response.completed"
        fresh = path.with_name("fresh")
        fresh.write_text(json.dumps(simulator.credential(account="acct-new")))
        fresh.replace(path)
        with open_socket(stack) as new:
            assert [old.turn(), new.turn(), old.turn()] == ["response.completed"] * 3
    accounts = [seen.field("chatgpt-account-id") for seen in simulator.requests]
    assert len(accounts) == 2
    assert accounts[0] != accounts[1] == "acct-new"
    assert statuses(stack, old, new) == ["completed"] * 4
    assert simulator.refreshes == []


def test_socket_of_a_removed_user(start_stack: Callable[..., Stack]) -> None:
    """The turn in progress completes and is recorded; the next turn and a new socket are refused."""
    stack = start_stack(workers=1)
    simulator = stack.simulator
    assert stack.turn().has_ended
    accounts = Accounts([], Database(f"sqlite:///{stack.running.state_path / 'ocm.db'}"))
    token = accounts.add(User("carol"), actor="cli")
    gate = Gate().after(3)
    with socket_bystander(stack), open_socket(stack, token) as removed:
        simulator.plan(Plan(gate=gate))
        removed.ask()
        assert gate.reached.wait(WAIT_SECONDS)
        accounts.remove("carol", actor="cli")
        gate.release()
        assert removed.receive_turn()["type"] == "response.completed"
        removed.ask()
        assert removed.receive_turn()["status"] == 401
        with pytest.raises(InvalidStatus, match="401"), open_socket(stack, token):
            pass
    assert statuses(stack, removed) == ["completed"]
    assert len(simulator.turns) == 3
