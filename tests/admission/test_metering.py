"""Turns that run where the service does not see what they use."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ocm_wsgi.admission.metering import require_metered
from ocm_wsgi.errors import LimitUnmeasurable
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM
from ocm_wsgi.quota.limits import Limit, Unit
from ocm_wsgi.users.user import User

UNMETERED = [each for table in (CHATGPT, PLATFORM) for each in table.endpoints if not each.is_metered]


def user(*units: Unit) -> User:
    """Return a user with one limit per day in each of these units."""
    return User("alice", limits=tuple(Limit(Decimal(10), unit, "day") for unit in units))


@pytest.mark.parametrize("units", [("tokens",), ("usd",), ("percent",), ("requests", "usd")])
@pytest.mark.parametrize("endpoint", UNMETERED, ids=lambda endpoint: endpoint.path)
def test_unmetered_turns_need_limits_in_requests(endpoint: Endpoint, units: tuple[Unit, ...]) -> None:
    """What is not known counts against a user whose limits depend on it, and the sentence says whom to ask."""
    require_metered(user(), endpoint)
    require_metered(user("requests"), endpoint)
    with pytest.raises(LimitUnmeasurable, match="Ask the owner") as raised:
        require_metered(user(*units), endpoint)
    assert raised.value.status == 400


def test_unmetered_endpoints() -> None:
    """Calls and jobs are unmetered; whatever answers with what it made is metered."""
    assert {each.family for each in UNMETERED} == {"realtime", "batch", "fine_tuning", "eval", "run"}
    require_metered(user("tokens"), CHATGPT.find("POST", "responses", is_admin=False))
