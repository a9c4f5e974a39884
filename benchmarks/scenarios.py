"""What clients do: streams, WebSockets, short turns, and new turns beside open streams."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from benchmarks import wire
from benchmarks.clients import Client, SocketClient, StreamClient, TurnConnection
from benchmarks.tally import Tally
from benchmarks.target import Target

#: More streams than one process can handle would be delayed by the generator itself.
STREAMS_PER_PROCESS = 500
#: Of so many new turns beside open streams, one is of a user who seldom has any.
QUIET_SHARE = 10

#: Opens a connection of a protocol to the target. Raises :class:`Damaged` if there is none.
Connect: TypeAlias = Callable[[asyncio.Protocol], Awaitable[None]]
_Tasks: TypeAlias = list[Coroutine[Any, Any, None]]


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

    def tasks(self, target: Target, connect: Connect, tally: Tally) -> _Tasks:
        """Return what the clients do; the coroutines may raise :class:`Damaged`."""
        return [_play(connect, client, start) for client, start in self._clients(target, tally)]

    def _clients(self, target: Target, tally: Tally) -> list[tuple[Client, float]]:
        query = wire.stream_query(self.events, self.rate)
        request = target.request(query, wire.stream_body(query))
        return [(StreamClient(request, tally, self.events, rewritten=target.rewrites), start) for start in self.starts]


class Sockets(Streams):
    """Concurrent WebSockets, each with one turn of as many messages."""

    def _clients(self, target: Target, tally: Tally) -> list[tuple[Client, float]]:
        handshake = target.handshake(wire.stream_query(self.events, self.rate))
        closes = not target.ends_sockets
        return [(SocketClient(handshake, tally, self.events, closes=closes), start) for start in self.starts]


@dataclass(frozen=True)
class Turns:
    """Short streamed turns, one after another over each connection.

    :ivar duration: in seconds; no turn begins later.
    :ivar time_limit: in seconds; turns without a response by then have failed.
    """

    connections: int
    duration: float
    time_limit: float

    def shares(self) -> list[Turns]:
        """Return the scenario of the only process."""
        return [self]

    def tasks(self, target: Target, connect: Connect, tally: Tally) -> _Tasks:
        """Return what the clients do; the coroutines may raise :class:`Damaged`."""
        until = time.monotonic() + self.duration
        return [self._play(target, connect, tally, until) for _ in range(self.connections)]

    async def _play(self, target: Target, connect: Connect, tally: Tally, until: float) -> None:
        request = short_turn(target, target.bearer_token)
        connection: TurnConnection | None = None
        while time.monotonic() < until:
            if connection is None or connection.is_closed:
                connection = TurnConnection(rewritten=target.rewrites)
                await connect(connection)
            tally.opened += 1
            await connection.turn(request, tally.latencies, tally.first_bytes)
            tally.ended += 1
        if connection is not None:
            connection.close()


@dataclass(frozen=True)
class Arrivals:
    """New short turns at a constant rate beside open streams, whose latency counts only during these turns.

    Most of the turns are of one user; one in :data:`QUIET_SHARE` is of another, who must not wait for the former's.

    :ivar streams: the open streams.
    :ivar turns: the start time of each turn, in seconds.
    :ivar quiet_turns: those of the user who has few.
    """

    streams: Streams
    turns: Sequence[float]
    quiet_turns: Sequence[float]

    @property
    def time_limit(self) -> float:
        return self.streams.time_limit

    def shares(self) -> list[Arrivals]:
        """Split the streams and the turns among processes."""
        streams = self.streams.shares()
        count = len(streams)
        return [Arrivals(share, self.turns[i::count], self.quiet_turns[i::count]) for i, share in enumerate(streams)]

    def tasks(self, target: Target, connect: Connect, tally: Tally) -> _Tasks:
        """Return what the clients do; the coroutines may raise :class:`Damaged`."""
        now = time.monotonic()
        every = sorted([*self.turns, *self.quiet_turns]) or [0.0]
        during = _During(tally.latencies, now + every[0], now + every[-1])
        query = wire.stream_query(self.streams.events, self.streams.rate)
        request = target.request(query, wire.stream_body(query))
        streams = [
            (StreamClient(request, tally, self.streams.events, latencies=during, rewritten=target.rewrites), start)
            for start in self.streams.starts
        ]
        pool = _Pool(target, connect, tally)
        return [
            *(_play(connect, client, start) for client, start in streams),
            *(pool.turn(start, target.user_token(0), tally.turn_first_bytes) for start in self.turns),
            *(pool.turn(start, target.user_token(1), tally.quiet_first_bytes) for start in self.quiet_turns),
        ]


Scenario: TypeAlias = Streams | Turns | Arrivals


async def _play(connect: Connect, client: Client, start: float) -> None:
    await asyncio.sleep(start)
    try:
        await connect(client)
        await client.ended
    finally:
        client.abort()


def short_turn(target: Target, bearer_token: str) -> bytes:
    """Return the bytes of a request for a short turn."""
    query = wire.stream_query(wire.SHORT_EVENTS, wire.SHORT_RATE)
    return target.request(query, wire.short_body(query), bearer_token=bearer_token)


@dataclass
class _During:
    """Adds latencies during a period only.

    :ivar begin: on the clock of ``time.monotonic``.
    """

    latencies: array[int]
    begin: float
    end: float

    def append(self, latency_ns: int, /) -> None:
        if self.begin <= time.monotonic() <= self.end:
            self.latencies.append(latency_ns)


@dataclass
class _Pool:
    """Open connections on which the next new turn is sent, as a proxy in front of the server would."""

    target: Target
    connect: Connect
    tally: Tally
    idle: list[TurnConnection] = field(default_factory=list)

    async def turn(self, start: float, bearer_token: str, first_bytes: array[int]) -> None:
        request = short_turn(self.target, bearer_token)
        await asyncio.sleep(start)
        connection = await self._connection()
        await connection.turn(request, array("q"), first_bytes)
        self.tally.ended += 1
        self.idle.append(connection)

    async def _connection(self) -> TurnConnection:
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_closed:
                return connection
        connection = TurnConnection(rewritten=self.target.rewrites)
        await self.connect(connection)
        return connection


def spread(count: int, begin: float, seconds: float) -> list[float]:
    """Return ``count`` times, evenly spaced over a period that begins at ``begin``."""
    return [begin + seconds * i / count for i in range(count)]
