"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import json
import resource
import signal
import tempfile
from pathlib import Path
from types import FrameType

import click

from benchmarks import chart, chatmock, litellm, machine, plan, report, wire
from benchmarks.measures import WARM_UP_SECONDS
from benchmarks.others import Other, installed
from benchmarks.plan import Plan
from benchmarks.servers import ServerFailed

_MAX_STREAMS = 10_000
_INTERRUPTED = 130
_PROGRAM = click.Path(path_type=Path, exists=True, dir_okay=False, executable=True)


def _counts(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse numbers separated by commas."""
    if value is None:
        return None
    try:
        counts = tuple(int(count) for count in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, such as 1,50,200.") from None
    if not all(1 <= count <= _MAX_STREAMS for count in counts) or len(set(counts)) < len(counts):
        raise click.BadParameter(f"{value!r}: each number must be from 1 to {_MAX_STREAMS:,}, without duplicates.")
    return counts


@click.command()
@click.option(
    "--streams",
    metavar="N,N,...",
    callback=_counts,
    help="Numbers of concurrent SSE streams, one load each [1,50,200; quick: 1,20].",
)
@click.option(
    "--sockets",
    metavar="N,N,...",
    callback=_counts,
    help="Numbers of concurrent WebSockets, one load each [50,200; quick: 20].",
)
@click.option(
    "--only",
    type=click.Choice(["streams", "sockets", "turns"]),
    multiple=True,
    help="Measure only this. Can be repeated.",
)
@click.option("--events", type=click.IntRange(1, wire.MAX_EVENTS), help="Events per turn [300; quick: 30].")
@click.option("--rate", type=click.FloatRange(0.1, 10_000), help="Events per second of a turn [33].", default=33.0)
@click.option("--rounds", type=click.IntRange(1), help="Repeat the measurements and take medians [1].", default=1)
@click.option("--tls", is_flag=True, help="Use TLS to upstream.")
@click.option(
    "--chatmock", "chatmock_path", metavar="PATH", type=_PROGRAM, help="ChatMock's command [the one on PATH]."
)
@click.option("--litellm", "litellm_path", metavar="PATH", type=_PROGRAM, help="LiteLLM's command [the one on PATH].")
@click.option("--quick", is_flag=True, help="Finish within 20 seconds, to check that it works.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this file."
)
@click.option("--svg", "svg_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot to this file.")
def main(
    streams: tuple[int, ...] | None,
    sockets: tuple[int, ...] | None,
    only: tuple[str, ...],
    events: int | None,
    rate: float,
    rounds: int,
    tls: bool,
    chatmock_path: Path | None,
    litellm_path: Path | None,
    quick: bool,
    json_path: Path | None,
    svg_path: Path | None,
) -> None:
    """Measure the service on this machine, compared with nginx and with direct requests to upstream.

    ChatMock and LiteLLM are measured too if they are installed, but not with WebSockets, and in a quick run only if
    named. Their dependencies conflict with the service's, so install each in a separate virtual environment
    (pip install chatmock, pip install 'litellm[proxy]') and put its command on PATH, or pass it with the option.
    ChatMock supports one upstream address only, with TLS, and is always measured with TLS.

    CPU is that of all processes of a server; latency is measured for each event, from upstream's sending until its
    receipt by a client. The last line of each load shows the service as a multiple of nginx. docs/benchmarks.md
    explains the rest.
    """
    named = {chatmock.KIND: chatmock_path, litellm.KIND: litellm_path}
    # They take longer to start than a quick run.
    found = {kind: path or (None if quick else installed(kind)) for kind, path in named.items()}
    absent = [kind.title for kind, program in found.items() if program is None]
    parts = only or ("streams", "sockets", "turns")
    chosen = Plan(
        streams=(streams or ((1, 20) if quick else (1, 50, 200))) if "streams" in parts else (),
        sockets=(sockets or ((20,) if quick else (50, 200))) if "sockets" in parts else (),
        events=events or (30 if quick else 300),
        rate=rate,
        connections=((1,) if quick else (1, 4)) if "turns" in parts else (),
        turn_seconds=0.3 if quick else 3.0,
        warm_up_seconds=0.1 if quick else WARM_UP_SECONDS,
        rounds=rounds,
        tls=tls,
        others=[Other(kind, program) for kind, program in found.items() if program],
    )
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    _allow_many_connections()
    try:
        described = machine.describe(chosen.others)
        click.echo(", ".join(f"{name} {value}" for name, value in described.items()))
        if absent:
            click.echo(f"not measured: {', '.join(absent)} (see --help)")
        with tempfile.TemporaryDirectory(prefix="ocm-benchmarks-") as folder:
            sections = plan.run(chosen, Path(folder))
    except ServerFailed as exc:
        raise click.ClickException(str(exc)) from exc
    except KeyboardInterrupt:
        click.echo("Interrupted; all processes were stopped.", err=True)
        raise SystemExit(_INTERRUPTED) from None
    _print(described, sections, json_path, svg_path)


def _print(
    described: dict[str, str], sections: list[report.Section], json_path: Path | None, svg_path: Path | None
) -> None:
    for section in sections:
        click.echo(f"\n{report.table(section)}")
    if found := report.remarks(sections):
        click.echo("\n" + "\n".join(found))
    if json_path is not None:
        json_path.write_text(json.dumps(report.document(described, sections), indent=2, ensure_ascii=False) + "\n")
    if svg_path is not None:
        svg_path.write_text(chart.chart(sections))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Ignore further signals, which would interrupt the cleanup and leave servers running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _allow_many_connections() -> None:
    """Raise the limit of open files to the maximum for this user; child processes inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
