"""Users as values."""

from __future__ import annotations

import pytest

from ocm_wsgi.quota.limits import parse
from ocm_wsgi.users.user import User, columns_of, user_of


@pytest.mark.parametrize(
    "user",
    [
        User("bob"),
        User(
            "alice",
            admin=True,
            models=("gpt-5*", "o4"),
            limits=(parse("30% per week"), parse("5 USD per day")),
            max_concurrent=3,
            expires_at=2e9,
        ),
    ],
)
def test_columns_round_trip(user: User) -> None:
    """A user who is written to the database is read back unchanged."""
    assert user_of(columns_of(user)) == user
