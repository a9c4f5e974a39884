"""State for the tests of users: a database of their own, and configured users."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ocm_wsgi.config import UserConfig
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts([], database)


@pytest.fixture
def configured() -> Callable[..., UserConfig]:
    def make(name: str, **keys: object) -> UserConfig:
        return UserConfig.model_validate({"name": name, "token": f"token-of-{name}", **keys})

    return make
