"""The configuration and the state database, opened for a command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ocm_wsgi.config import Config, load
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.state_folder import require_own
from ocm_wsgi.users.accounts import Accounts

#: The actor in the audit trail.
ACTOR = "cli"


@dataclass(frozen=True)
class State:
    """The configuration and the database that it names."""

    config: Config
    database: Database

    @property
    def accounts(self) -> Accounts:
        """The users of configuration and database."""
        return Accounts(self.config.users, self.database)


def open_state() -> State:
    """Load the configuration and prepare the database, which opens on first use and closes when the command ends.

    :raises ConfigurationError: with every problem in it.
    :raises StateUnusable: the state belongs to another user.
    """
    config = load(os.environ, Path.cwd())
    require_own(config.state_path)
    database = Database(config.database_url)
    click.get_current_context().call_on_close(database.close)
    return State(config, database)


@contextlib.contextmanager
def quiet_state() -> Iterator[State]:
    """Like ``open_state``, for use outside a command."""
    config = load(os.environ, Path.cwd())
    database = Database(config.database_url)
    try:
        yield State(config, database)
    finally:
        database.close()
