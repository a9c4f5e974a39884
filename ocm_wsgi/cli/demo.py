"""``flask ocm demo``: see it work."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ocm_wsgi.demo.service import Demonstration

PROMPT = "Say hello."
#: The release that the tests run against.
CODEX = "@openai/codex@0.169.0"


@click.command("demo")
@click.option("--port", type=click.IntRange(1, 65535), help="Serve on this port (8080, or any free one).")
@click.option("--once", is_flag=True, help="End after the first turn instead of serving until Ctrl-C.")
def demo(port: int | None, once: bool) -> None:
    """Show the whole service at work: no credential, no network.

    Starts a simulated OpenAI and the real service in front of it, sends a streamed turn through both with a user's
    bearer token, and keeps serving until Ctrl-C.
    """
    try:
        from ocm_wsgi.demo.service import DemonstrationFailed, demonstration
    except ImportError as exc:
        raise click.ClickException(f"The demo needs {exc.name}: pip install 'ocm-wsgi[demo]'") from exc
    signal.signal(signal.SIGTERM, _end)
    try:
        click.echo("Starting a simulated OpenAI and the real service ...")
        with demonstration(port=port) as running:
            _take_turn(running)
            _explain(running)
            if not once:
                click.echo("\nServing until Ctrl-C.")
                raise click.ClickException(f"The service ended by itself, with status {running.wait()}.")
    except DemonstrationFailed as failure:
        raise click.ClickException(f"The demo failed: {failure.message}") from failure
    except KeyboardInterrupt:
        click.echo("\nEnded; nothing is left behind.")


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _take_turn(running: Demonstration) -> None:
    click.echo(f"\n  you    {PROMPT}\n  model  ", nl=False)
    for text in running.say(PROMPT):
        click.echo(text, nl=False)
    (turn,) = running.simulator.turns
    click.echo(f"\n         {turn.model}, {turn.input_tokens} tokens in, {turn.output_tokens} tokens out\n")


def _explain(running: Demonstration) -> None:
    folder = running.folder
    rows = [
        ("the API", f"{running.url}/v1"),
        ("bearer token", running.bearer_token),
        ("OpenAI, simulated", running.simulator.url),
        ("configuration", str(folder / "ocm.json")),
        ("credential", str(folder / "auth.json")),
        ("log", str(folder / "service.log")),
    ]
    for name, value in rows:
        click.echo(f"  {name:<18} {value}")
    click.echo("\nTry it from another terminal:\n")
    click.echo(f"  curl -N {running.url}/v1/responses -H 'Authorization: Bearer {running.bearer_token}' \\")
    click.echo(
        """       -H 'Content-Type: application/json' -d '{"model": "gpt-5.5", "stream": true, "input": "Hi"}'"""
    )
    click.echo("\nWho used what, as its owner sees it:\n")
    click.echo(f"  OCM_CONFIG={folder / 'ocm.json'} {_shown(Path(sys.executable).with_name('flask'))} ocm usage")
    if command := _codex():
        click.echo("\nOr with the real Codex:\n")
        click.echo(f"  CODEX_HOME={folder / 'codex'} OCM_BEARER_TOKEN={running.bearer_token} \\")
        click.echo(f"       {command} exec --skip-git-repo-check 'say hi'")


def _shown(program: Path) -> Path:
    """A program's path, as short as it can be typed here."""
    return program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program


def _codex() -> str | None:
    """How to start the Codex client on this machine, or ``None`` without Node."""
    ours = Path(".cache/codex/node_modules/.bin/codex")
    if shutil.which("node") is None:
        return None
    if ours.exists():
        return str(ours)
    if installed := shutil.which("codex"):
        return installed
    return f"npx --yes {CODEX}" if shutil.which("npx") else None
