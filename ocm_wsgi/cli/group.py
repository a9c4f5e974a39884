"""A group of commands that are imported on demand and never end in a traceback."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from ocm_wsgi import __version__
from ocm_wsgi.errors import ConfigurationError, OcmError


class LazyGroup(click.Group):
    """Commands by their import paths, in the order given.

    Errors are shown as one message, with exit code 1. ``OCM_DEBUG=1`` shows the traceback of an unexpected one.

    :param import_paths: ``module:attribute`` by command name.
    """

    def __init__(self, name: str, import_paths: Mapping[str, str], *, help: str) -> None:
        super().__init__(name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self._import_paths = import_paths
        click.version_option(__version__, prog_name="ocm-wsgi", message="%(prog)s %(version)s")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands whose modules exist."""
        return [name for name, import_path in self._import_paths.items() if find_spec(import_path.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = self._import_paths[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, turning exceptions into messages."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as exc:
            raise click.ClickException(exc.message) from exc
        except OcmError as exc:
            raise click.ClickException(f"{exc.message} ({exc.detail})" if exc.detail else exc.message) from exc
        except BrokenPipeError:
            raise
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            raise click.ClickException(f"{where}{exc.strerror or exc}") from exc
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            if os.environ.get("OCM_DEBUG"):
                raise
            what = f"{type(exc).__name__}: {exc}"
            raise click.ClickException(f"Internal error ({what}). OCM_DEBUG=1 shows the traceback.") from exc
