"""The effect of stalled clients on others: ``python -m benchmarks.stalled``.

Measures the event latency of 100 streams alone, beside 100 clients that have stopped reading a long response, and
beside 100 clients that have sent half a request, one after another in each round.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks import wire
from benchmarks.figures import percentile
from benchmarks.load import Generator
from benchmarks.scenarios import Streams
from benchmarks.servers import Upstream, run_upstream
from benchmarks.service import run_service
from benchmarks.tally import Tally
from benchmarks.target import Target

STREAMS = 100
STARTS_PER_SECOND = 100
RATE = 33.0
TIME_LIMIT_SECONDS = 60.0
#: The size of a stalled client's response, which quickly exceeds all buffers on the way.
LONG_EVENTS = 500_000
LONG_RATE = 4000.0
_RECEIVE_BUFFER_BYTES = 4096
# If upstream uses less than this fraction of a CPU, all buffers are full.
_IDLE = 0.05
_FILL_SECONDS = 120.0
_UPSTREAM_PROCESSES = 2
_ESTABLISHED = 1


@click.command()
@click.option("--clients", type=click.IntRange(1, 1000), default=100, show_default=True, help="That stand still.")
@click.option("--events", type=click.IntRange(10, wire.MAX_EVENTS), default=150, show_default=True, help="A stream.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="The number of repetitions.")
def main(clients: int, events: int, rounds: int) -> None:
    """Measure the effect of stalled clients on others."""
    starts = [number / STARTS_PER_SECOND for number in range(STREAMS)]
    others = Streams(starts, events, RATE, TIME_LIMIT_SECONDS)
    print(f"{STREAMS} streams of {events} events, {RATE:g} a second each; milliseconds")
    print(f"{'beside':<30} {'p50':>8} {'p99':>8} {'max':>8} {'first byte p99':>15}    whole")
    with (
        tempfile.TemporaryDirectory(prefix="ocm-stalled-") as folder,
        Generator() as generator,
        run_upstream(processes=_UPSTREAM_PROCESSES, certificate=None) as upstream,
        run_service(upstream, Path(folder)) as server,
    ):

        def play(scenario: Streams) -> Tally:
            return generator.play(server.target, scenario).wait()

        play(Streams(starts, 10, RATE, TIME_LIMIT_SECONDS))  # warms it up
        measured = [_round(server.target, upstream, lambda: play(others), clients) for _ in range(rounds)]
    if rounds > 1:
        print(f"Medians of {rounds} rounds")
        for beside, *same in zip(measured[0], *(each.values() for each in measured), strict=True):
            _print(beside, [statistics.median(figures) for figures in zip(*same, strict=True)])


def _round(target: Target, upstream: Upstream, play: Callable[[], Tally], clients: int) -> dict[str, list[float]]:
    """Measure the streams that ``play`` plays in all three situations, and return their figures."""
    measured = {}

    def measure(beside: str) -> None:
        tally = play()
        measured[beside] = _figures(tally)
        _print(beside, measured[beside])
        for failure, count in tally.failures.items():
            print(f"  {count} failed: {failure}")

    measure("nobody")
    with _stalled(target, clients) as connections:
        _await_idle(upstream)
        measure(f"{clients} that stopped reading")
        _require_connected(connections)
    with _half_requests(target, clients) as connections:
        measure(f"{clients} with half a request")
        _require_connected(connections)
    return measured


def _figures(tally: Tally) -> list[float]:
    """Return the figures in the order of the table."""
    latencies, first_bytes = sorted(tally.latencies), sorted(tally.first_bytes)
    times = [percentile(latencies, 50), percentile(latencies, 99), latencies[-1], percentile(first_bytes, 99)]
    return [*(time_ns / 1e6 for time_ns in times), tally.ended]


def _print(beside: str, figures: Sequence[float]) -> None:
    p50, p99, longest, first_byte, whole = figures
    print(f"{beside:<30} {p50:>8.2f} {p99:>8.2f} {longest:>8.2f} {first_byte:>15.2f} {whole:>8.0f}", flush=True)


@contextlib.contextmanager
def _connected(target: Target, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as open_connections:
        connections = []
        for _ in range(count):
            connection = open_connections.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            connection.connect(target.address)
            connections.append(connection)
        yield connections


@contextlib.contextmanager
def _stalled(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Request long responses and read nothing."""
    request = target.request(wire.stream_query(LONG_EVENTS, LONG_RATE), wire.stream_body())
    with _connected(target, count) as connections:
        for connection in connections:
            connection.sendall(request)
        yield connections


@contextlib.contextmanager
def _half_requests(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Send half a head on every other connection, and half a body on the others."""
    request = target.request(wire.stream_query(10, RATE), wire.stream_body())
    halves = [request[:100], request[: len(request) // 2]]
    with _connected(target, count) as connections:
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % 2])
        yield connections


def _await_idle(upstream: Upstream) -> None:
    """Wait until upstream stops sending because nothing is read.

    :raises click.ClickException: it does not stop.
    """
    deadline, before = time.monotonic() + _FILL_SECONDS, upstream.tree.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(1)
        now = upstream.tree.cpu_seconds()
        if now - before < _IDLE:
            return
        before = now
    raise click.ClickException("Upstream keeps sending to clients that read nothing.")


def _require_connected(connections: list[socket.socket]) -> None:
    """Check that all clients stayed connected, as otherwise the measurement would be meaningless.

    :raises click.ClickException: the service has disconnected some of them.
    """
    disconnected = [
        each for each in connections if each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED
    ]
    if disconnected:
        raise click.ClickException(f"{len(disconnected)} of the clients were disconnected meanwhile. Use fewer events.")


if __name__ == "__main__":
    main()
