"""Looking up users of the configuration and the database by their token."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ocm_wsgi.config import UserConfig
from ocm_wsgi.errors import AuthenticationFailed, StateError, UserRejected
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.user import User

FULL = User(
    "alice",
    admin=True,
    models=("gpt-5*", "o4"),
    limits=(parse("30% per week"), parse("5 USD per day")),
    max_concurrent=3,
    expires_at=2e9,
)


@pytest.fixture
def directory(database: Database) -> UserDirectory:
    return UserDirectory([], database)


def test_authenticate_database(accounts: Accounts, directory: UserDirectory) -> None:
    """A user of the database is found by their token, with all attributes."""
    token = accounts.add(FULL, actor="cli")
    assert directory.authenticate(token) == FULL


def test_authenticate_configuration(database: Database, configured: Callable[..., UserConfig]) -> None:
    """A user of the configuration is found by the token there."""
    expires_at = datetime(2033, 5, 18, 3, 33, 20, tzinfo=timezone.utc)
    limits = [{"per": "week", "percent": 30}]
    config = configured("bob", limits=limits, models=["gpt-*"], expires_at=expires_at.isoformat(), max_concurrent=2)
    assert UserDirectory([config], database).authenticate("token-of-bob") == User(
        "bob",
        models=("gpt-*",),
        limits=(parse("30% per week"),),
        max_concurrent=2,
        expires_at=2e9,
        source="configuration",
    )


@pytest.mark.parametrize(
    "token", ["", "sk-ocm-", "token-of-bo", "TOKEN-OF-BOB", "token-of-bob ", "\udcff", "x" * 100_000]
)
def test_authenticate_unknown(token: str, database: Database, configured: Callable[..., UserConfig]) -> None:
    """Only the exact token is accepted."""
    with pytest.raises(AuthenticationFailed, match="Unknown bearer token"):
        UserDirectory([configured("bob")], database).authenticate(token)


@pytest.mark.parametrize(
    ("user", "reason"), [(User("alice", disabled=True), "disabled"), (User("alice", expires_at=1000.0), "has expired")]
)
def test_authenticate_refuses(database: Database, accounts: Accounts, user: User, reason: str) -> None:
    """Disabled and expired users are refused, each with its reason."""
    token = accounts.add(user, actor="cli")
    with pytest.raises(AuthenticationFailed, match=reason):
        UserDirectory([], database, clock=lambda: 1000.0).authenticate(token)


def test_authenticate_until_expiry(database: Database, accounts: Accounts) -> None:
    """A token works until the moment it expires."""
    token = accounts.add(User("alice", expires_at=1000.0), actor="cli")
    assert UserDirectory([], database, clock=lambda: 999.999).authenticate(token).name == "alice"


def test_authenticate_after_changes(accounts: Accounts, directory: UserDirectory) -> None:
    """Every change takes effect at the very next request."""
    token = accounts.add(User("alice"), actor="cli")
    assert directory.authenticate(token).admin is False
    accounts.update("alice", lambda user: replace(user, admin=True), actor="cli")
    assert directory.authenticate(token).admin is True
    second = accounts.rotate_token("alice", actor="cli")
    with pytest.raises(AuthenticationFailed):
        directory.authenticate(token)
    assert directory.authenticate(second).name == "alice"
    accounts.remove("alice", actor="cli")
    with pytest.raises(AuthenticationFailed):
        directory.authenticate(second)


def test_is_open(accounts: Accounts, directory: UserDirectory, database: Database) -> None:
    """The service is open until the first user is added, and never again, not even to a new process."""
    assert (directory.is_open, directory.has_users) == (True, False)
    accounts.add(User("alice"), actor="cli")
    assert (directory.is_open, directory.has_users) == (False, True)
    accounts.remove("alice", actor="cli")
    assert (directory.is_open, directory.has_users) == (False, False)
    assert not UserDirectory([], database).is_open


def test_is_open_with_configured_users(database: Database, configured: Callable[..., UserConfig]) -> None:
    """With configured users, the service is not open, and the database is not queried for that."""
    assert not UserDirectory([configured("bob")], Database("sqlite:////dev/null/ocm.db")).is_open


def test_configuration_has_precedence(
    database: Database, accounts: Accounts, configured: Callable[..., UserConfig]
) -> None:
    """Where both define a name, the configuration takes precedence over the database."""
    token = accounts.add(User("bob", admin=True), actor="cli")
    directory = UserDirectory([configured("bob")], database)
    with pytest.raises(AuthenticationFailed):
        directory.authenticate(token)
    assert not directory.authenticate("token-of-bob").admin


def test_users_survive_the_database(tmp_path: Path, database: Database, accounts: Accounts) -> None:
    """When the database is damaged or deleted, the users last read stay valid, and the service stays closed."""
    token = accounts.add(User("alice"), actor="cli")
    directory = UserDirectory([], database)
    assert directory.authenticate(token).name == "alice"
    database.close()
    for path in (tmp_path / "state").glob("ocm.sqlite3*"):
        path.unlink()
    assert directory.authenticate(token).name == "alice"
    database.close()
    (tmp_path / "state" / "ocm.sqlite3").write_bytes(b"not a database" * 1000)
    assert directory.authenticate(token).name == "alice"
    assert not directory.is_open


def test_users_without_database(configured: Callable[..., UserConfig]) -> None:
    """If the database could never be read, configured users are let in, and nobody else."""
    broken = Database("sqlite:////dev/null/ocm.db")
    assert UserDirectory([configured("bob")], broken).authenticate("token-of-bob").name == "bob"
    with pytest.raises(StateError):
        UserDirectory([configured("bob")], broken).authenticate("sk-ocm-unknown")
    with pytest.raises(StateError):
        UserDirectory([], broken).is_open  # noqa: B018 - a property that must raise


def test_users_while_locked(tmp_path: Path, accounts: Accounts, directory: UserDirectory) -> None:
    """An open transaction of another program does not keep users out."""
    token = accounts.add(User("alice"), actor="cli")
    with closing(sqlite3.connect(tmp_path / "state" / "ocm.sqlite3")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert directory.authenticate(token).name == "alice"


def test_unreadable_user(database: Database, accounts: Accounts, directory: UserDirectory) -> None:
    """A user whose limits this release does not know is refused; the others are not."""
    tokens = [accounts.add(User(name), actor="cli") for name in ("alice", "bob")]
    with database.write() as connection:
        connection.execute(db.user.update().where(db.user.c.name == "alice").values(limits=["3 moons per year"]))
    with pytest.raises(AuthenticationFailed):
        directory.authenticate(tokens[0])
    assert directory.authenticate(tokens[1]).name == "bob"
    with pytest.raises(UserRejected, match="newer release"):
        accounts.show("alice")


def test_authenticate_cost(accounts: Accounts, directory: UserDirectory) -> None:
    """Checking for changes is cheap: far below a millisecond of CPU time, where nothing else slows the CPU down."""
    token = accounts.add(User("alice"), actor="cli")
    times = []
    for _ in range(300):
        begin = time.thread_time()
        directory.authenticate(token)
        times.append(time.thread_time() - begin)
    assert min(times) < 0.0005


_WATCHER = """
import sys
from ocm_wsgi.storage.database import Database
from ocm_wsgi.errors import AuthenticationFailed
from ocm_wsgi.users.directory import UserDirectory
directory = UserDirectory([], Database(sys.argv[1]))
for line in sys.stdin:
    try:
        print(directory.authenticate(line.strip()).name, flush=True)
    except AuthenticationFailed:
        print("refused", flush=True)
"""


def test_changes_across_processes(database: Database, accounts: Accounts) -> None:
    """Adding, disabling and removing in one process takes effect at the next request of another."""
    command = [sys.executable, "-c", _WATCHER, database.url.render_as_string()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None

        def user_of(token: str) -> str:
            print(token, file=watcher.stdin, flush=True)
            return watcher.stdout.readline().strip() if watcher.stdout else ""

        assert user_of("sk-ocm-nobody") == "refused"
        token = accounts.add(User("alice"), actor="cli")
        assert user_of(token) == "alice"
        accounts.update("alice", lambda user: replace(user, disabled=True), actor="cli")
        assert user_of(token) == "refused"
        accounts.update("alice", lambda user: replace(user, disabled=False), actor="cli")
        assert user_of(token) == "alice"
        accounts.remove("alice", actor="cli")
        assert user_of(token) == "refused"
        watcher.stdin.close()
