"""Who may use the service: somebody, everybody or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.errors import StateError
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.directory import UserDirectory

_SUBJECT = Subject("users")
_REMEDY = "flask ocm add-user NAME"


def findings(config: Config) -> Iterator[Finding]:
    """Look at the configuration and the database. What is wrong with the latter is told elsewhere."""
    with closing(Database(config.database_url)) as database:
        if database.path is not None and not database.path.exists():
            is_open, has_users = not config.users, bool(config.users)
        else:
            directory = UserDirectory(config.users, database)
            try:
                is_open, has_users = directory.is_open, directory.has_users
            except StateError:
                return
    if is_open:
        yield _SUBJECT.note(
            "everybody",
            "There are no users: whoever can connect is served. Behind a proxy, that is everybody.",
            _REMEDY,
        )
    elif not has_users:
        yield _SUBJECT.warning("nobody", "There are no users any more: nobody is served.", _REMEDY)
    else:
        yield _SUBJECT.ok("some", "Who has a bearer token of a user is served, and nobody else.")
