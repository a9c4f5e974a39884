"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import json
import resource
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from benchmarks import chart, chatmock, expected, litellm, machine, plan, report, sing_box, wire
from benchmarks.expected import Expected
from benchmarks.kinds import NAMES, Loads
from benchmarks.measures import WARM_UP_SECONDS
from benchmarks.others import Other, installed
from benchmarks.plan import Plan
from benchmarks.servers import ServerFailed

_MAX_STREAMS = 10_000
_INTERRUPTED = 130
_REGRESSION = 3
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
@click.option("--connections", metavar="N,N,...", callback=_counts, help="Connections with short turns [4; quick: 2].")
@click.option(
    "--streams",
    metavar="N,N,...",
    callback=_counts,
    help="Numbers of concurrent SSE streams, one load each [200; quick: 20].",
)
@click.option(
    "--sockets",
    metavar="N,N,...",
    callback=_counts,
    help="Numbers of concurrent WebSockets, one load each [200; quick: 20].",
)
@click.option(
    "--arrivals",
    metavar="N,N,...",
    callback=_counts,
    help="New turns per second beside 1,000 open streams, one load each [200; quick: 20 beside 20 streams].",
)
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Measure only this. Can be repeated.")
@click.option(
    "--events", type=click.IntRange(1, wire.MAX_EVENTS), help="Events per stream and socket [300; quick: 30]."
)
@click.option("--rate", type=click.FloatRange(0.1, 10_000), help="Events per second of each [33].", default=33.0)
@click.option("--rounds", type=click.IntRange(1), help="Measure so often, interleaved, and take medians [3; quick: 1].")
@click.option("--plain", "transport", flag_value="plain", help="Use a plain upstream only.")
@click.option("--tls", "transport", flag_value="tls", help="Use TLS to upstream only [streams: both; others: TLS].")
@click.option(
    "--chatmock", "chatmock_path", metavar="PATH", type=_PROGRAM, help="ChatMock's command [the one on PATH]."
)
@click.option("--litellm", "litellm_path", metavar="PATH", type=_PROGRAM, help="LiteLLM's command [the one on PATH].")
@click.option(
    "--sing-box", "sing_box_path", metavar="PATH", type=_PROGRAM, help="sing-box, built with OCM [the one on PATH]."
)
@click.option("--quick", is_flag=True, help="Finish within 20 seconds, to check that it works.")
@click.option("--write-expected", is_flag=True, help="Write the ratios to benchmarks/expected.json, to compare with.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this file."
)
@click.option("--svg", "svg_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot to this file.")
def main(
    only: tuple[str, ...],
    rounds: int | None,
    transport: str | None,
    chatmock_path: Path | None,
    litellm_path: Path | None,
    sing_box_path: Path | None,
    quick: bool,
    write_expected: bool,
    json_path: Path | None,
    svg_path: Path | None,
    **sizes: Any,
) -> None:
    """Measure the service on this machine, compared with nginx and with direct requests to upstream.

    ChatMock, LiteLLM and sing-box are measured too if they are installed, but the former two not with WebSockets, and
    all of them in a quick run only if named. The dependencies of the former two conflict with the service's, so install
    each in a separate virtual environment (pip install chatmock, pip install 'litellm[proxy]') and put its command on
    PATH, or pass it with the option. ChatMock and sing-box support one upstream address only, with TLS, and are always
    measured with TLS.

    CPU is that of all threads of a server; latency is measured for each event, from upstream's sending until its
    receipt by a client. The first table shows the service as a multiple of nginx. If one of its ratios is more than
    10 % above the one in benchmarks/expected.json, which was taken on such a machine, the exit code is 3.
    docs/benchmarks.md explains the rest.
    """
    named = {chatmock.KIND: chatmock_path, litellm.KIND: litellm_path, sing_box.KIND: sing_box_path}
    # They take longer to start than a quick run.
    found = {kind: path or (None if quick else installed(kind)) for kind, path in named.items()}
    absent = [kind.title for kind, program in found.items() if program is None]
    others = [Other(kind, program) for kind, program in found.items() if program]
    chosen = plan_of(quick=quick, names=only or NAMES, transport=transport, rounds=rounds, others=others, **sizes)
    described, sections = _measure(chosen, absent)
    before = Expected() if quick else expected.read()
    _print(described, sections, before, json_path, svg_path)
    if write_expected:
        expected.write(described, sections)
        click.echo(f"\nwritten to {expected.PATH.name}")
    elif not passes(described, sections, before):
        raise SystemExit(_REGRESSION)


def plan_of(
    *,
    quick: bool,
    names: Sequence[str] = NAMES,
    transport: str | None = None,
    rounds: int | None = None,
    others: Sequence[Other] = (),
    **sizes: Any,
) -> Plan:
    """Return the plan of a run with these options; without them, streams are measured with both transports."""
    return Plan(
        loads=_loads(quick=quick, **sizes),
        plain=names if transport == "plain" else [name for name in names if name == "streams" and transport is None],
        tls=[] if transport == "plain" else names,
        warm_up_seconds=0.1 if quick else WARM_UP_SECONDS,
        rounds=rounds or (1 if quick else 3),
        shares_servers=quick,
        others=others,
    )


def _loads(
    *,
    quick: bool,
    connections: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    sockets: Sequence[int] | None = None,
    arrivals: Sequence[int] | None = None,
    events: int | None = None,
    rate: float = 33.0,
) -> Loads:
    return Loads(
        connections=connections or ((2,) if quick else (4,)),
        turn_seconds=0.3 if quick else 4.0,
        streams=streams or ((20,) if quick else (200,)),
        sockets=sockets or ((20,) if quick else (200,)),
        events=events or (30 if quick else 300),
        rate=rate,
        arrivals=arrivals or ((20,) if quick else (200,)),
        arrival_streams=20 if quick else 1000,
        arrival_rate=10.0,
        arrival_seconds=0.5 if quick else 5.0,
    )


def _measure(chosen: Plan, absent: Sequence[str]) -> tuple[dict[str, str], list[report.Section]]:
    """Return the machine and what was measured on it; exit if that is not possible."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    _allow_many_connections()
    try:
        described = machine.describe(chosen.others)
        click.echo(", ".join(f"{name} {value}" for name, value in described.items()))
        if absent:
            click.echo(f"not measured: {', '.join(absent)} (see --help)")
        with tempfile.TemporaryDirectory(prefix="ocm-benchmarks-") as folder:
            return described, plan.run(chosen, Path(folder))
    except ServerFailed as exc:
        raise click.ClickException(str(exc)) from exc
    except KeyboardInterrupt:
        click.echo("Interrupted; all processes were stopped.", err=True)
        raise SystemExit(_INTERRUPTED) from None


def _print(
    described: dict[str, str],
    sections: list[report.Section],
    before: Expected,
    json_path: Path | None,
    svg_path: Path | None,
) -> None:
    click.echo(f"\n{report.summary(sections, before.medians())}")
    for section in sections:
        click.echo(f"\n{report.table(section)}")
    if found := report.remarks(sections):
        click.echo("\n" + "\n".join(found))
    if json_path is not None:
        json_path.write_text(json.dumps(report.document(described, sections), indent=2, ensure_ascii=False) + "\n")
    if svg_path is not None:
        svg_path.write_text(chart.chart(sections))


def passes(described: dict[str, str], sections: list[report.Section], before: Expected) -> bool:
    """Print regressions, and return whether there are none that this machine can prove."""
    found = expected.regressions(before, sections)
    if not found:
        return True
    click.echo("\n" + "\n".join(found), err=True)
    if before.is_of(described):
        return False
    taken = ", ".join(f"{name} {value}" for name, value in before.machine.items())
    click.echo(f"The expected ratios were taken on another machine: {taken}", err=True)
    return True


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Ignore further signals, which would interrupt the cleanup and leave servers running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _allow_many_connections() -> None:
    """Raise the limit of open files to the maximum for this user; child processes inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
