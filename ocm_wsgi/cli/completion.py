"""``ocm completion``: prints what makes a shell complete commands, options, kinds and the names of users."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print shell completion for bash, zsh or fish.")
@click.argument("shell", required=False, type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the code that makes a SHELL complete commands, options and the names of users.

    Without an argument, it is the one that SHELL in the environment names.

    \b
    Examples:
      eval "$(ocm completion bash)"        # in ~/.bashrc
      eval "$(ocm completion zsh)"         # in ~/.zshrc
      ocm completion fish | source         # in ~/.config/fish/config.fish
    """
    shell = shell or _of_environment()
    root = ctx.find_root()
    program = root.info_name or "ocm"
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, program, variable).source())


def _of_environment() -> str:
    shell = PurePath(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        raise click.UsageError(f"Which shell? One of: {', '.join(_SHELLS)}.")
    return shell
