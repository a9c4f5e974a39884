"""What commands work with: the configuration, and the state that it names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ocm_wsgi.config import Config, load
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts

#: Who has done it, in the audit trail.
ACTOR = "cli"


@dataclass(frozen=True)
class State:
    """The configuration and the database that it names."""

    config: Config
    database: Database

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.config.users, self.database)


def open_state() -> State:
    """Read the configuration; the database is opened at its first use, and closed when the command ends.

    :raises ConfigurationError: with every mistake in it.
    """
    config = load(os.environ, Path.cwd())
    database = Database(config.database_url)
    click.get_current_context().call_on_close(database.close)
    return State(config, database)


@contextlib.contextmanager
def quiet_state() -> Iterator[State]:
    """As ``open_state``, outside a command."""
    config = load(os.environ, Path.cwd())
    database = Database(config.database_url)
    try:
        yield State(config, database)
    finally:
        database.close()
