"""Whether the service is open to everyone, to its users, or to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ocm_wsgi.admission.measurability import credential_path_of, require_measurable_for_owner
from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.errors import StateError, UserRejected
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Account, Accounts
from ocm_wsgi.users.directory import UserDirectory

_SUBJECT = Subject("users")
_REMEDY = "ocm add-user NAME"


def findings(config: Config) -> Iterator[Finding]:
    """Check the users of configuration and database. An unusable database is reported by the check of the state."""
    with closing(Database(config.database_url, upgrades=False)) as database:
        if database.path is not None and not database.path.exists():
            is_open, has_users = not config.users, bool(config.users)
            accounts: list[Account] = []
        else:
            directory = UserDirectory(config.users, database)
            try:
                is_open, has_users = directory.is_open, directory.has_users
                accounts = Accounts(config.users, database).all()
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
    for account in accounts:
        yield from _unmeasurable(account, config)


def _unmeasurable(account: Account, config: Config) -> Iterator[Finding]:
    """Find a limit that cannot be measured. One in the configuration is a mistake there."""
    try:
        path = credential_path_of(config, account.user.credential)
        require_measurable_for_owner(account.user.limits, path)
    except UserRejected as exc:
        yield _SUBJECT.problem(
            "unmeasurable",
            f"All requests of {account.user.name} are refused: {exc.message}",
            f"ocm update-user {account.user.name} --limit ...",
        )
