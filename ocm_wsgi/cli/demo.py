"""``ocm demo``: runs the whole service locally against a simulated OpenAI."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ocm_wsgi.demo.service import Demo

PROMPT = "Say hello."
#: The release that the tests use.
CODEX = "@openai/codex@0.171.0"


@click.command("demo", short_help="Demonstrate the service without a credential.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port to listen on. Default: 8080, or any free one.")
@click.option("--once", is_flag=True, help="Exit after the first turn instead of serving until Ctrl-C.")
def demo(port: int | None, once: bool) -> None:
    """Demonstrate the whole service without a credential or a network.

    Starts a simulated OpenAI and the real service in front of it, sends a streamed turn through both with a user's
    bearer token, and keeps serving until Ctrl-C.
    """
    try:
        from ocm_wsgi.demo.service import DemoFailed, run_demo
    except ImportError as exc:
        raise click.ClickException(f"The demo needs {exc.name}: pip install 'ocm-wsgi[demo]'") from exc
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        click.echo("Starting a simulated OpenAI and the real service ...")
        with run_demo(port=port) as running:
            _run_turn(running)
            _explain(running)
            if not once:
                click.echo("\nServing until Ctrl-C.")
                raise click.ClickException(f"The service exited unexpectedly with status {running.wait()}.")
    except DemoFailed as failure:
        raise click.ClickException(f"The demo failed: {failure.message}") from failure
    except KeyboardInterrupt:
        click.echo("\nStopped; all files were removed.")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run_turn(running: Demo) -> None:
    click.echo(f"\n  you    {PROMPT}\n  model  ", nl=False)
    for text in running.send_turn(PROMPT):
        click.echo(text, nl=False)
    (turn,) = running.simulator.turns
    click.echo(f"\n         {turn.model}, {turn.input_tokens} tokens in, {turn.output_tokens} tokens out\n")


def _explain(running: Demo) -> None:
    folder = running.folder
    rows = [
        ("API", f"{running.url}/v1"),
        ("bearer token", running.bearer_token),
        ("simulated OpenAI", running.simulator.url),
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
    click.echo("\nThe owner's view of the usage:\n")
    click.echo(f"  OCM_CONFIG={folder / 'ocm.json'} {_shown(Path(sys.executable).with_name('ocm'))} usage")
    if command := _codex():
        click.echo("\nOr with the real Codex:\n")
        click.echo(f"  CODEX_HOME={folder / 'codex'} OCM_BEARER_TOKEN={running.bearer_token} \\")
        click.echo(f"       {command} exec --skip-git-repo-check 'say hi'")


def _shown(program: Path) -> Path:
    """Return a program's path, relative to the working directory if it is below it."""
    return program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program


def _codex() -> str | None:
    """Return the command that starts Codex on this machine, or ``None`` without Node."""
    development_copy = Path(".cache/codex/node_modules/.bin/codex")
    if shutil.which("node") is None:
        return None
    if development_copy.exists():
        return str(development_copy)
    if installed := shutil.which("codex"):
        return installed
    return f"npx --yes {CODEX}" if shutil.which("npx") else None
