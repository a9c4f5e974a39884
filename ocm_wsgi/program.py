"""The commands of ``ocm``: those of ``flask ocm``, and ``ocm serve``."""

from __future__ import annotations

import signal

import click

from ocm_wsgi.cli import COMMANDS, HELP
from ocm_wsgi.cli.group import LazyGroup

__all__ = ["ocm"]

_SERVE = "serve"


class _Program(LazyGroup):
    """Commands that can be interrupted once their module has been imported."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import a command, and have Ctrl-C raise an exception in it; gunicorn has its own handler."""
        found = super().resolve_command(ctx, args)
        if found[0] != _SERVE and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return found


ocm = _Program("ocm", {_SERVE: "ocm_wsgi.server.command:serve", **COMMANDS}, help=HELP)
