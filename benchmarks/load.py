"""The load generator: runs a scenario against a target, in separate processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

from benchmarks import eventloop, wire
from benchmarks.certificates import CERTIFICATE_NAME
from benchmarks.clients import Client, SocketClient, StreamClient, TurnClient
from benchmarks.processes import end, start
from benchmarks.responses import Damaged
from benchmarks.tally import Progress, Tally

_PROCESSES = multiprocessing.get_context("spawn")
_REPORT_INTERVAL_SECONDS = 0.1
#: More streams than one process can handle would be delayed by the generator itself.
STREAMS_PER_PROCESS = 500


@dataclass(frozen=True)
class Target:
    """The server that clients connect to.

    :ivar path: the path of the Responses endpoint.
    :ivar authority: the file with the authority to trust, if clients themselves use TLS.
    :ivar rewrites: whether the server rewrites responses.
    """

    address: tuple[str, int]
    path: str
    bearer_token: str = field(repr=False)
    authority: Path | None = None
    rewrites: bool = False

    def request(self, query: str, body: bytes) -> bytes:
        """Return the bytes of a POST request, with the fields that Codex sends."""
        fields = {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": len(body),
        }
        return self._head("POST", query, fields) + body

    def handshake(self, query: str) -> bytes:
        """Return the bytes of an opening handshake with the fields that Codex sends, without compression."""
        fields = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": 13,
            "Sec-WebSocket-Key": wire.SOCKET_KEY,
        }
        return self._head("GET", query, fields)

    def _head(self, method: str, query: str, fields: Mapping[str, object]) -> bytes:
        host, port = self.address
        all_fields = {
            "Host": f"{host}:{port}",
            "Authorization": f"Bearer {self.bearer_token}",
            "User-Agent": "codex_cli_rs/0.169.0",
            "originator": "codex_cli_rs",
            "session-id": "019b76da-a800-7000-8000-000000000000",
            **fields,
        }
        lines = [f"{method} {self.path}{query} HTTP/1.1", *(f"{name}: {value}" for name, value in all_fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Streams:
    """Concurrent streams.

    :ivar starts: the start time of each, in seconds.
    :ivar events: the number of events of each, without the terminal one.
    :ivar rate: the rate of each, in events per second.
    :ivar time_limit: in seconds; streams still open then have failed.
    """

    starts: Sequence[float]
    events: int
    rate: float
    time_limit: float

    def shares(self) -> list[Streams]:
        """Split the streams among processes; return scenarios of the same class."""
        count = -(-len(self.starts) // STREAMS_PER_PROCESS)
        return [replace(self, starts=self.starts[i::count]) for i in range(count)]

    def clients(self, target: Target, tally: Tally) -> list[tuple[float, Client]]:
        """Return the clients with the start time of each."""
        query = wire.stream_query(self.events, self.rate)
        request = target.request(query, wire.stream_body(query))
        return [(start, StreamClient(request, tally, self.events, rewritten=target.rewrites)) for start in self.starts]


class Sockets(Streams):
    """Concurrent WebSockets, each with one turn of as many messages."""

    def clients(self, target: Target, tally: Tally) -> list[tuple[float, Client]]:
        """Return the clients with the start time of each."""
        handshake = target.handshake(wire.stream_query(self.events, self.rate))
        return [(start, SocketClient(handshake, tally, self.events)) for start in self.starts]


@dataclass(frozen=True)
class Turns:
    """Small turns, not streamed, one after another over each connection.

    :ivar duration: in seconds; no turn begins later.
    :ivar time_limit: in seconds; turns without a response by then have failed.
    """

    connections: int
    duration: float
    time_limit: float

    def shares(self) -> list[Turns]:
        """Return the scenario of the only process."""
        return [self]

    def clients(self, target: Target, tally: Tally) -> list[tuple[float, Client]]:
        """Return the clients with the start time of each."""
        request = target.request("", wire.turn_body())
        until = time.monotonic() + self.duration
        return [(0.0, TurnClient(request, tally, until, rewritten=target.rewrites)) for _ in range(self.connections)]


Scenario: TypeAlias = Streams | Turns


class Load:
    """A running scenario, as a context manager that stops its processes.

    :ivar tally: the results, complete once :meth:`progress` has ended.
    """

    def __init__(self, target: Target, scenario: Scenario) -> None:
        self.tally = Tally()
        self._target = target
        self._shares = scenario.shares()
        self._processes: list[BaseProcess] = []
        self._reports: dict[Connection, Progress] = {}

    def __enter__(self) -> Load:
        for share in self._shares:
            reports, sender = _PROCESSES.Pipe(duplex=False)
            self._reports[reports] = Progress()
            process = _PROCESSES.Process(target=_play, args=(self._target, share, sender), daemon=True)
            self._processes.append(process)
            start(process)
            sender.close()
        return self

    def __exit__(self, *failure: object) -> None:
        for process in self._processes:
            end(process)
        for reports in self._reports:
            reports.close()

    def progress(self) -> Iterator[Progress]:
        """Yield the total progress, several times a second, until the scenario has ended.

        :raises EOFError: the generator itself failed; its traceback is on standard error.
        """
        playing = set(self._reports)
        while playing:
            for reports in wait(list(playing)):
                assert isinstance(reports, Connection)
                report = reports.recv()
                if isinstance(report, Tally):
                    playing.remove(reports)
                    self.tally += report
                    report = report.progress()
                self._reports[reports] = report
            yield sum(self._reports.values(), Progress())


def _play(target: Target, scenario: Scenario, reports: Connection) -> None:
    """Run one process's share. Sends its :class:`Progress` ten times a second and its :class:`Tally` at the end."""
    eventloop.run(_run(target, scenario, reports))


async def _run(target: Target, scenario: Scenario, reports: Connection) -> None:
    tally = Tally()
    tls = None if target.authority is None else ssl.create_default_context(cafile=target.authority)
    reporter = asyncio.create_task(_report(tally, reports))
    began, cpu = time.monotonic(), time.process_time()
    tasks = [
        asyncio.create_task(_run_client(client, delay, target.address, tls, tally))
        for delay, client in scenario.clients(target, tally)
    ]
    done, late = await asyncio.wait(tasks, timeout=scenario.time_limit)
    tally.busy = (time.process_time() - cpu) / (time.monotonic() - began)
    if late:
        tally.failures[f"not ended within {scenario.time_limit:.0f} s"] += len(late)
    for task in done:
        task.result()  # Exceptions that a client does not count as failures are bugs.
    for task in (*late, reporter):
        task.cancel()
    await asyncio.gather(*late, reporter, return_exceptions=True)
    reports.send(tally)


async def _run_client(
    client: Client, delay: float, address: tuple[str, int], tls: ssl.SSLContext | None, tally: Tally
) -> None:
    await asyncio.sleep(delay)
    following: Client | None = client
    while following is not None:
        await _run_connection(following, address, tls, tally)
        following = following.successor


async def _run_connection(client: Client, address: tuple[str, int], tls: ssl.SSLContext | None, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    name = CERTIFICATE_NAME if tls else None
    try:
        transport, _ = await loop.create_connection(lambda: client, *address, ssl=tls, server_hostname=name)
    except OSError as exc:
        tally.failures[f"no connection: {exc}"] += 1
        return
    try:
        await client.ended
    except Damaged as exc:
        tally.failures[str(exc)] += 1
    finally:
        transport.abort()


async def _report(tally: Tally, reports: Connection) -> None:
    while True:
        reports.send(tally.progress())
        await asyncio.sleep(_REPORT_INTERVAL_SECONDS)
