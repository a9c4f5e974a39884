"""Whether the service is open to everyone, to its users, or to nobody."""

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
    """Check the users of configuration and database. An unusable database is reported by the check of the state."""
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
            "There are no users: everyone who can connect is served, which behind a proxy means everyone.",
            _REMEDY,
        )
    elif not has_users:
        yield _SUBJECT.warning("nobody", "All users were removed; every request is refused.", _REMEDY)
    else:
        yield _SUBJECT.ok("some", "Only requests with a user's bearer token are served.")
