"""The state of users and of their limits, as data."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ocm_wsgi.admission.admission import LimitUsage
from ocm_wsgi.quota.limits import Span, parse
from ocm_wsgi.reporting.status import limit_status, user_state
from ocm_wsgi.users.user import User


@pytest.mark.parametrize(
    ("user", "state"),
    [
        pytest.param(User("ann"), "active", id="active"),
        pytest.param(User("ann", expires_at=101.0), "active", id="expires-later"),
        pytest.param(User("ann", expires_at=100.0), "expired", id="expired"),
        pytest.param(User("ann", disabled=True, expires_at=100.0), "disabled", id="disabled-and-expired"),
        pytest.param(User("ann", admin=True), "active", id="admin"),
    ],
)
def test_user_state(user: User, state: str) -> None:
    """A user is active until they expire, unless they are disabled."""
    assert user_state(user, 100.0) == state


def test_limit_status() -> None:
    """A limit has its usage in its own unit and in percent, and says whether it is reached."""
    status = limit_status(LimitUsage(parse("4 requests per day"), Decimal(4), Span(0, 86400)))
    assert status == {
        "limit": "4 requests per day",
        "unit": "requests",
        "period": "day",
        "amount": 4.0,
        "used": 4.0,
        "used_percent": 100.0,
        "reached": True,
        "starts_at": "1970-01-01T00:00:00Z",
        "resets_at": "1970-01-02T00:00:00Z",
    }
