"""A group of commands that are loaded when they are asked for, and that never end in a traceback."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from ocm_wsgi.errors import ConfigurationError, OcmError


class LazyGroup(click.Group):
    """Commands by the place they are imported from, in the order given.

    Failures that the user can mend are shown as one message, with exit code 1. ``OCM_DEBUG=1`` shows where a defect is.

    :param places: ``module:attribute`` by name.
    """

    def __init__(self, name: str, places: Mapping[str, str], *, help: str) -> None:
        super().__init__(name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands whose modules exist."""
        return [name for name, place in self._places.items() if find_spec(place.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
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
            raise click.ClickException(f"This is a defect ({what}). OCM_DEBUG=1 shows where it is.") from exc
