"""The cost of ``deploy/nginx.conf``, including TLS to the client: ``python -m benchmarks.nginx_front``.

The same streams and WebSockets go to one running service alternately directly and through nginx in front of it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.figures import Measurement, median
from benchmarks.load import Generator
from benchmarks.measures import Meter
from benchmarks.scenarios import Sockets, Streams
from benchmarks.servers import Server, ServerFailed, run_upstream
from benchmarks.service import run_service
from benchmarks.target import Target
from tests.clients.nginx import SERVER_NAME, run_nginx

# All clients are on this machine, so one address has the load of many.
_NO_LIMITS = {"limit_req zone=ocm_requests burst=200 nodelay;": ""}
_KINDS: dict[str, type[Streams]] = {"streams": Streams, "WebSockets": Sockets}
# nginx as started by the tests has 512 connections, two per stream.
_MOST = 200
_STARTS_PER_SECOND = 100
_TIME_LIMIT_SECONDS = 60.0
_FIGURES = ("latency_p50_ms", "latency_p99_ms", "first_byte_p50_ms", "first_byte_p99_ms")
_HEADING = ("event p50 ms", "event p99 ms", "first byte p50", "first byte p99")


@contextlib.contextmanager
def _both_ways(folder: Path) -> Iterator[list[Meter]]:
    """Run everything; yield meters of the service directly and through nginx."""
    for name in ("service", "nginx"):
        (folder / name).mkdir()
    with (
        Generator() as generator,
        run_upstream(processes=1, certificate=None) as upstream,
        run_service(upstream, folder / "service") as service,
        run_nginx("{}:{}".format(*service.target.address), folder / "nginx", edits=_NO_LIMITS) as nginx,
    ):
        token = service.target.bearer_token
        target = Target((SERVER_NAME, nginx.https_port), service.target.path, token, authority=nginx.authority)
        front = Server("with nginx", target, log=folder / "nginx" / "error.log")
        yield [Meter(service, upstream, generator), Meter(front, upstream, generator)]


@click.command()
@click.option(
    "--count",
    "counts",
    type=click.IntRange(1, _MOST),
    multiple=True,
    default=(1, 50, 200),
    show_default=True,
    help="At once.",
)
@click.option("--events", type=click.IntRange(1), default=100, show_default=True, help="Of each stream.")
@click.option("--rate", type=click.FloatRange(0.1), default=33.0, show_default=True, help="Events per second of each.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Take medians of this many rounds."
)
def main(counts: Sequence[int], events: int, rate: float, rounds: int) -> None:
    """Measure the cost that nginx adds to each event and to the first byte."""
    click.echo(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    try:
        with tempfile.TemporaryDirectory(prefix="ocm-benchmarks-") as folder, _both_ways(Path(folder)) as meters:
            for kind, scenario in _KINDS.items():
                click.echo(f"\n{'':>5} {kind:<12}" + "".join(f"{heading:>16}" for heading in _HEADING))
                for count in counts:
                    starts = [number / _STARTS_PER_SECOND for number in range(count)]
                    load = scenario(starts, events, rate, _TIME_LIMIT_SECONDS + events / rate)
                    measured = [[meter.streams(count, load, lambda _: None) for meter in meters] for _ in range(rounds)]
                    _print(count, *(median(same) for same in zip(*measured, strict=True)))
    except ServerFailed as exc:
        raise click.ClickException(str(exc)) from exc


def _print(count: int, straight: Measurement, front: Measurement) -> None:
    """Print the figures of both routes, and their difference."""
    figures = [[measurement.figures[name] or 0.0 for name in _FIGURES] for measurement in (straight, front)]
    added = [more - less for less, more in zip(*figures, strict=True)]
    for size, name, values in (
        (f"{count}", "straight", figures[0]),
        ("", "with nginx", figures[1]),
        ("", "added", added),
    ):
        click.echo(f"{size:>5} {name:<12}" + "".join(f"{value:>16.2f}" for value in values))
    for measurement in (straight, front):
        for reason, times in measurement.failures.items():
            click.echo(f"      {measurement.server}: {times:,} failed: {reason}")


if __name__ == "__main__":
    main()
