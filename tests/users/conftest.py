"""State for the tests of users: a database of their own, and configured users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocm_wsgi.accounts import Accounts
from ocm_wsgi.config import UserConfig
from ocm_wsgi.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'state' / 'ocm.db'}")
    yield database
    database.close()


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts([], database)


@pytest.fixture
def configured() -> Callable[..., UserConfig]:
    def make(name: str, **keys: object) -> UserConfig:
        return UserConfig.model_validate({"name": name, "token": f"token-of-{name}", **keys})

    return make
