"""The whole stack as in production (TLS, nginx, gunicorn), and the outcome of turns at both ends of it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import sqlite3
import ssl
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
#: The number of events of a turn with a single delta; the ninth and last one is terminal.
LAST_EVENT = 9
WAIT_SECONDS = 30.0
#: When a client or a process is gone, its upstream request ends within a second. The rest allows for a busy machine; a
#: disconnect that goes unnoticed lasts for minutes.
GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """The response that a client received.

    :ivar status: 0 if no status line arrived.
    :ivar is_complete: whether the body is complete according to its framing.
    """

    status: int
    request_id: str
    body: bytes
    is_complete: bool

    @property
    def has_ended(self) -> bool:
        """Whether the client has seen the end of the turn."""
        return TERMINAL_EVENT in self.body and self.body.endswith(b"\n\n")


@dataclass(frozen=True)
class Stack:
    """The running service and the nginx in front of it; requests can go through nginx or directly to gunicorn."""

    running: RunningService
    nginx: Nginx

    @property
    def simulator(self) -> Simulator:
        return self.running.simulator

    def connect(self, route: str = "nginx") -> http.client.HTTPConnection:
        """Return a connection that the caller closes."""
        if route == "nginx":
            return self.nginx.connect()
        return http.client.HTTPConnection(*self.running.address, timeout=20)

    @contextmanager
    def socket(self, route: str = "nginx", *, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
        """Open a connection for raw bytes."""
        if route == "direct":
            with socket.create_connection(self.running.address, timeout=20) as plain:
                yield plain
            return
        address = ("127.0.0.1", self.nginx.https_port)
        with (
            socket.create_connection(address, timeout=20) as plain,
            (tls or self.nginx.tls).wrap_socket(plain, server_hostname=SERVER_NAME) as encrypted,
        ):
            yield encrypted

    def turn(
        self,
        token: str = ALICE,
        *,
        route: str = "nginx",
        fields: Mapping[str, str] | None = None,
        stops_at_end: bool = False,
        terminal_seen: threading.Event | None = None,
    ) -> Answer:
        """Take one turn on a new connection; see :func:`take_turn`."""
        with closing(self.connect(route)) as connection:
            return take_turn(connection, token, fields, stops_at_end=stops_at_end, terminal_seen=terminal_seen)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return user, status and request id of each turn in the ledger."""
        return rows_of(self.running.state_path)

    def rows_with(self, answers: Iterable[Answer]) -> list[tuple[str, str, str]]:
        """Return the ledger's rows for these turns, waiting for those that are recorded after a disconnect."""
        known = {answer.request_id for answer in answers}
        found: list[tuple[str, str, str]] = []

        def is_complete() -> bool:
            found[:] = [row for row in self.rows() if row[2] in known]
            return len(found) >= len(known)

        eventually(is_complete)
        return found

    def each_worker_serves(self) -> bool:
        """Send requests until each worker has answered another one; return whether all have."""
        before = len(self.running.log_text())

        def have_answered() -> bool:
            for stream in [Background(lambda: self.turn(route="direct")) for _ in range(4)]:
                stream.answer()
            lines = self.running.log_text()[before:]
            pids = workers_of(self.running)
            return len(pids) == 2 and all(f"[{pid}] [INFO] alice POST /v1/responses 200 " in lines for pid in pids)

        return eventually(have_answered)

    def serves(self) -> bool:
        """Return whether a user's next turn completes, both through nginx and directly."""
        answers = [self.turn(BOB, route=route) for route in ("nginx", "direct")]
        return all(answer.status == 200 and answer.has_ended and answer.is_complete for answer in answers)


@contextmanager
def run_stack(simulator: Simulator, folder: Path, **options: Any) -> Iterator[Stack]:
    """Run the whole stack; takes the options of :func:`tests.conftest.start_service`."""
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
    stops_at_end: bool = False,
    terminal_seen: threading.Event | None = None,
) -> Answer:
    """Take one turn on a connection, and return its outcome, even if it fails.

    :param stops_at_end: stop reading after the terminal event, as Codex does.
    :param terminal_seen: set when the terminal event has arrived.
    """
    status, request_id, received = 0, "", b""
    try:
        connection.request("POST", "/v1/responses", BODY, {"Authorization": f"Bearer {token}", **(fields or {})})
        with connection.getresponse() as response:
            status, request_id = response.status, response.headers.get("x-request-id", "")
            while piece := response.read1(65536):
                received += piece
                if TERMINAL_EVENT in received and received.endswith(b"\n\n"):
                    if terminal_seen is not None:
                        terminal_seen.set()
                    if stops_at_end:
                        break
            is_complete = response.length in (None, 0)
    except (OSError, http.client.HTTPException):
        is_complete = False
    return Answer(status, request_id, received, is_complete)


T = TypeVar("T")


class Background(Generic[T]):
    """A call that runs in a background thread, such as a turn that is held at a gate."""

    def __init__(self, take: Callable[[], T]) -> None:
        self._answers: list[T] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(take()))
        self._thread.start()

    def answer(self) -> T:
        """Wait for the call to end, and return its result."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "the turn did not end"
        return self._answers[0]


@contextmanager
def bystander(stack: Stack) -> Iterator[None]:
    """Keep another user's stream open during the context, and check that it completes."""
    gate = Gate().after(3)
    stack.simulator.plan(Plan(gate=gate, text="Bob's own words."))
    stream = Background(lambda: stack.turn(BOB))
    try:
        assert gate.reached.wait(WAIT_SECONDS)
        yield
    finally:
        gate.release()
        answer = stream.answer()
    assert (answer.status, answer.has_ended, answer.is_complete) == (200, True, True)
    assert hashlib.sha256(answer.body).hexdigest() in {sent.body_sha256 for sent in stack.simulator.sent}
    assert b"Bob's own words." in answer.body


def rows_of(state_path: Path) -> list[tuple[str, str, str]]:
    """Like :meth:`Stack.rows`; empty until the first turn has created the database."""
    if not (state_path / "ocm.db").exists():
        return []
    with closing(sqlite3.connect(f"file:{state_path / 'ocm.db'}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'turn'").fetchall():
            return []
        return connection.execute('SELECT "user", status, request_id FROM turn').fetchall()


def eventually(condition: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> bool:
    """Poll a condition in another process; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def workers_of(running: RunningService) -> list[int]:
    """Return the pids of the current workers."""
    return [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]


def peak_kib(stack: Stack) -> int:
    """Return the peak memory of the larger of both workers, in KiB."""
    assert eventually(lambda: len(workers_of(stack.running)) == 2)
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in workers_of(stack.running)]
    return max(int(peak) for status in statuses for peak in re.findall(r"VmHWM:\s+(\d+)", status))


def upstream_connections(running: RunningService) -> dict[int, int]:
    """Return the number of open connections to the simulator, for each worker that has any."""
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
    """Return the exact bytes of a request head."""
    return "\r\n".join([request, f"Host: {SERVER_NAME}", f"Authorization: Bearer {token}", *lines, "", ""]).encode()


def received_until_close(connection: socket.socket) -> bytes:
    """Return everything received until the connection ends or times out."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except (ConnectionError, TimeoutError):
        pass
    return received


@contextmanager
def held_open(stack: Stack, count: int, route: str, data: bytes) -> Iterator[None]:
    """Hold open this many connections on which only these bytes have been sent."""
    with ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(stack.socket(route)).sendall(data)
        yield
