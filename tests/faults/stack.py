"""The whole way a turn goes in production, TLS, nginx, gunicorn, and what became of turns at each of its ends."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ocm_wsgi.simulator import Gate, Plan, Simulator
from tests.clients.nginx import SERVER_NAME, Nginx, run_nginx
from tests.conftest import ALICE, BOB, RunningService, start_service

BODY = json.dumps({"model": "gpt-5.5", "stream": True, "input": "hi"}).encode()
TERMINAL_EVENT = b"event: response.completed"
#: Of the events of a turn that is said in one delta; the ninth and last is terminal.
LAST_EVENT = 9
WAIT_SECONDS = 30.0
#: Invariant 5: a client or a process that is gone ends its upstream request within a second. The rest is for a machine
#: that is busy; who is not noticed stays for minutes.
GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What a client got.

    :ivar status: 0 when not even that came.
    :ivar is_whole: whether its framing says that it came to its end.
    """

    status: int
    request_id: str
    body: bytes
    is_whole: bool

    @property
    def has_ended(self) -> bool:
        """Whether the client has seen the turn end."""
        return TERMINAL_EVENT in self.body and self.body.endswith(b"\n\n")


@dataclass(frozen=True)
class Stack:
    """Who may be asked, and by which way: through nginx, or gunicorn itself."""

    running: RunningService
    nginx: Nginx

    @property
    def simulator(self) -> Simulator:
        return self.running.simulator

    def connect(self, way: str = "nginx") -> http.client.HTTPConnection:
        """Return a connection that the caller closes."""
        if way == "nginx":
            return self.nginx.connect()
        return http.client.HTTPConnection(*self.running.address, timeout=20)

    @contextmanager
    def socket(self, way: str = "nginx") -> Iterator[socket.socket]:
        """Open a connection to send octets on."""
        if way == "direct":
            with socket.create_connection(self.running.address, timeout=20) as plain:
                yield plain
            return
        address = ("127.0.0.1", self.nginx.https_port)
        with (
            socket.create_connection(address, timeout=20) as plain,
            self.nginx.tls.wrap_socket(plain, server_hostname=SERVER_NAME) as encrypted,
        ):
            yield encrypted

    def turn(
        self,
        token: str = ALICE,
        *,
        way: str = "nginx",
        fields: Mapping[str, str] | None = None,
        leaves_at_end: bool = False,
    ) -> Answer:
        """Take one turn, once, and whatever comes of it; see :func:`take_turn`."""
        with closing(self.connect(way)) as connection:
            return take_turn(connection, token, fields, leaves_at_end=leaves_at_end)

    def rows(self) -> list[tuple[str, str, str]]:
        """What the ledger holds: user, status and request id of each turn."""
        return rows_of(self.running.state_path)

    def rows_with(self, answers: Iterable[Answer]) -> list[tuple[str, str, str]]:
        """What the ledger holds of these turns. A turn that was cut is recorded a moment after its client knows."""
        known = {answer.request_id for answer in answers}
        found: list[tuple[str, str, str]] = []

        def is_complete() -> bool:
            found[:] = [row for row in self.rows() if row[2] in known]
            return len(found) >= len(known)

        eventually(is_complete)
        return found

    def each_worker_serves(self) -> bool:
        """Ask until each worker has answered once more, and say whether all have."""
        before = len(self.running.log_text())

        def have_answered() -> bool:
            for stream in [Background(lambda: self.turn(way="direct")) for _ in range(4)]:
                stream.answer()
            lines = self.running.log_text()[before:]
            pids = workers_of(self.running)
            return len(pids) == 2 and all(f"[{pid}] [INFO] alice POST /v1/responses 200 " in lines for pid in pids)

        return eventually(have_answered)

    def serves(self) -> bool:
        """Whether a user's next turn comes whole, by both ways."""
        answers = [self.turn(BOB, way=way) for way in ("nginx", "direct")]
        return all(answer.status == 200 and answer.has_ended and answer.is_whole for answer in answers)


@contextmanager
def run_stack(simulator: Simulator, folder: Path, **options: Any) -> Iterator[Stack]:
    """Run all of it; options as of :class:`tests.conftest.start_service`."""
    (folder / "nginx").mkdir(parents=True)
    with (
        start_service(simulator, folder / "service", **options) as running,
        run_nginx(running.url.removeprefix("http://"), folder / "nginx") as nginx,
    ):
        yield Stack(running, nginx)


def take_turn(
    connection: http.client.HTTPConnection,
    token: str,
    fields: Mapping[str, str] | None = None,
    *,
    leaves_at_end: bool = False,
) -> Answer:
    """Take one turn on a connection, and whatever comes of it.

    :param leaves_at_end: read no further than the terminal event, as Codex does.
    """
    status, request_id, received = 0, "", b""
    try:
        connection.request("POST", "/v1/responses", BODY, {"Authorization": f"Bearer {token}", **(fields or {})})
        with connection.getresponse() as response:
            status, request_id = response.status, response.headers.get("x-request-id", "")
            while piece := response.read1(65536):
                received += piece
                if leaves_at_end and TERMINAL_EVENT in received and received.endswith(b"\n\n"):
                    break
            is_whole = response.length in (None, 0)
    except (OSError, http.client.HTTPException):
        is_whole = False
    return Answer(status, request_id, received, is_whole)


T = TypeVar("T")


class Background(Generic[T]):
    """A turn that is taken in a thread, held at a gate or not, and asked about when it is over."""

    def __init__(self, take: Callable[[], T]) -> None:
        self._answers: list[T] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(take()))
        self._thread.start()

    def answer(self) -> T:
        """Wait for its end."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "the turn did not end"
        return self._answers[0]


@contextmanager
def bystander(stack: Stack) -> Iterator[None]:
    """Have somebody else's stream under way for the whole of the context, and see it end whole."""
    gate = Gate().after(3)
    stack.simulator.plan(Plan(gate=gate, text="Bob's own words."))
    stream = Background(lambda: stack.turn(BOB))
    try:
        assert gate.reached.wait(WAIT_SECONDS)
        yield
    finally:
        gate.release()
        answer = stream.answer()
    assert (answer.status, answer.has_ended, answer.is_whole) == (200, True, True)
    assert hashlib.sha256(answer.body).hexdigest() in {sent.body_sha256 for sent in stack.simulator.sent}
    assert b"Bob's own words." in answer.body


def rows_of(state_path: Path) -> list[tuple[str, str, str]]:
    """As :meth:`Stack.rows`; none before the first turn has made the database."""
    if not (state_path / "ocm.db").exists():
        return []
    with closing(sqlite3.connect(f"file:{state_path / 'ocm.db'}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'turn'").fetchall():
            return []
        return connection.execute('SELECT "user", status, request_id FROM turn').fetchall()


def eventually(condition: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> bool:
    """Ask again and again, of what another process does; say whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def workers_of(running: RunningService) -> list[int]:
    """The worker processes of the moment."""
    return [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]


def peak_kib(stack: Stack) -> int:
    """Memory of the largest of both workers at its highest, in KiB."""
    assert eventually(lambda: len(workers_of(stack.running)) == 2)
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in workers_of(stack.running)]
    return max(int(peak) for status in statuses for peak in re.findall(r"VmHWM:\s+(\d+)", status))


def upstream_connections(running: RunningService) -> dict[int, int]:
    """How many connections to the simulator each worker holds open that holds any."""
    port = int(running.simulator.url.rpartition(":")[2])
    found = {}
    for pid in workers_of(running):
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        inodes = {line[9] for line in lines if line[3] == "01" and line[2].endswith(f":{port:04X}")}
        if held := inodes & _sockets_of(pid):
            found[pid] = len(held)
    return found


def _sockets_of(pid: int) -> set[str]:
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def head(token: str = ALICE, *lines: str, request: str = "POST /v1/responses HTTP/1.1") -> bytes:
    """A request's head, to the octet."""
    return "\r\n".join([request, f"Host: {SERVER_NAME}", f"Authorization: Bearer {token}", *lines, "", ""]).encode()


def received_until_close(connection: socket.socket) -> bytes:
    """Everything that comes until the connection ends, or its timeout."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except (ConnectionError, TimeoutError):
        pass
    return received


@contextmanager
def held_open(stack: Stack, count: int, way: str, octets: bytes) -> Iterator[None]:
    """Hold so many connections on which only this was sent."""
    with ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(stack.socket(way)).sendall(octets)
        yield
