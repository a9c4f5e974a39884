"""Changing the users in the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ocm_wsgi.config import UserConfig
from ocm_wsgi.errors import UserRejected
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("alice", True),
        ("a", True),
        ("Alice.B-2_x@example+y", True),
        ("a" * 64, True),
        ("", False),
        ("a" * 65, False),
        ("-alice", False),
        ("../alice", False),
        ("al ice", False),
        ("alice\n", False),
        ("älice", False),
    ],
)
def test_names(accounts: Accounts, name: str, good: bool) -> None:
    """Names are safe in a command and in a path."""
    if good:
        accounts.add(User(name), actor="cli")
        assert accounts.show(name).user.name == name
    else:
        with pytest.raises(UserRejected, match="A name has"):
            accounts.add(User(name), actor="cli")


def test_accounts_refuse_invalid_changes(database: Database, configured: Callable[..., UserConfig]) -> None:
    """An invalid change is refused with its reason, and changes nothing."""
    accounts = Accounts([configured("bob")], database)
    accounts.add(User("alice"), actor="cli")
    with pytest.raises(UserRejected, match="already"):
        accounts.add(User("alice"), actor="cli")
    with pytest.raises(UserRejected, match="in the configuration"):
        accounts.add(User("bob"), actor="cli")
    for change in (
        lambda name: accounts.update(name, lambda user: user, actor="cli"),
        lambda name: accounts.rotate_token(name, actor="cli"),
        lambda name: accounts.remove(name, actor="cli"),
    ):
        with pytest.raises(UserRejected, match="in the configuration"):
            change("bob")
        with pytest.raises(UserRejected, match="no user carol"):
            change("carol")
    with pytest.raises(UserRejected, match="at least 1"):
        accounts.update("alice", lambda user: replace(user, max_concurrent=0), actor="cli")
    with pytest.raises(UserRejected, match="pattern"):
        accounts.update("alice", lambda user: replace(user, models=("",)), actor="cli")
    assert [(account.user.name, account.user.source) for account in accounts.all()] == [
        ("alice", "database"),
        ("bob", "configuration"),
    ]


def test_audit_trail(database: Database, accounts: Accounts) -> None:
    """Each change is recorded with its actor and its subject, and without the token."""
    tokens = [accounts.add(User("alice"), actor="cli")]
    accounts.update("alice", lambda user: replace(user, limits=(parse("5 USD per day"),)), actor="owner")
    tokens.append(accounts.rotate_token("alice", actor="cli"))
    accounts.remove("alice", actor="cli")
    with database.read() as connection:
        rows = connection.execute(sa.select(db.event).order_by(db.event.c.id)).mappings().all()
    assert [(row["actor"], row["kind"], row["subject"]) for row in rows] == [
        ("cli", "user.added", "alice"),
        ("owner", "user.updated", "alice"),
        ("cli", "user.token_rotated", "alice"),
        ("cli", "user.removed", "alice"),
    ]
    assert rows[1]["detail"] == {"limits": [[], ["5 USD per day"]]}
    assert not any(token[7:] in str(row) for token in tokens for row in rows)


def test_remove_leaves_stored_objects_to_admins(database: Database, accounts: Accounts) -> None:
    """Another user who gets the name gets nothing of what its last holder has stored at OpenAI."""
    for name in ("alice", "bob"):
        accounts.add(User(name), actor="cli")
        with database.write() as connection:
            row = {"id": f"file-{name}", "user": name, "kind": "file", "credential": "default", "created_at": 1.0}
            connection.execute(db.stored_object.insert(), row)
    accounts.remove("alice", actor="cli")
    with database.read() as connection:
        assert connection.scalars(sa.select(db.stored_object.c.id)).all() == ["file-bob"]
