"""``ocm serve``: runs the service in gunicorn, with the settings of this package."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from ocm_wsgi.server.startup import worker_count


class _GunicornOptions(click.Command):
    """A command whose options are gunicorn's, passed on as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take everything but a request for help."""
        if {"-h", "--help"} & set(args):
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["options"] = tuple(args)
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer gunicorn's options."""
        from gunicorn.config import KNOWN_SETTINGS

        options = [
            CompletionItem(option, help=setting.short)
            for setting in KNOWN_SETTINGS
            for option in setting.cli or ()
            if option.startswith("--") and option.startswith(incomplete)
        ]
        return options + super().shell_complete(ctx, incomplete)


@click.command("serve", cls=_GunicornOptions, short_help="Run the service.", options_metavar="[GUNICORN'S OPTIONS]")
def serve(options: tuple[str, ...]) -> None:
    """Run the service in gunicorn until it is stopped.

    The address, users and everything else specific to the service come from its configuration. All of gunicorn's
    options are accepted as well and take precedence, also in GUNICORN_CMD_ARGS. TERM ends it once all turns have
    ended, at most two minutes later; HUP reloads the configuration.

    \b
    Examples:
      ocm serve
      ocm serve --workers 4 --bind unix:/run/ocm/ocm.sock
      OCM_LISTEN_PORT=8081 ocm serve
    """
    worker_count(os.environ)
    # gunicorn fails to import if WEB_CONCURRENCY is not a number.
    from ocm_wsgi.server.application import InvalidOptions, Server

    try:
        server = Server(options)
    except InvalidOptions as exc:
        raise click.UsageError(f"{exc}.") from exc
    server.run()
