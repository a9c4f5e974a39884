"""Models without a price, which users with limits in money are refused."""

from __future__ import annotations

import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.checks import prices
from ocm_wsgi.config import Price, load
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import User

PRICE = Price(input=Decimal(1), cached_input=Decimal(1), output=Decimal(2))


@pytest.mark.parametrize(
    ("limit", "given", "is_found"),
    [("5 USD per week", {}, True), ("1M tokens per day", {}, False), ("5 USD per week", {"new-model": PRICE}, False)],
)
def test_unpriced(tmp_path: Path, limit: str, given: dict[str, Price], is_found: bool) -> None:
    """A model that was used without a price is named if users with limits in USD or percent are refused it."""
    config = load({"HOME": str(tmp_path)}, tmp_path).model_copy(update={"prices": given})
    assert list(prices.unpriced(config)) == []
    with closing(Database(config.database_url)) as database:
        Accounts([], database).add(User("alice", limits=(parse(limit),)), actor="test")
        turn = Turn(
            "t1", time.time(), "bob", DEFAULT_CREDENTIAL, "new-model", "default", 0, None, Usage(1, 0, 1), None,
            "sse", "completed", 200, 1, 1,
        )  # fmt: skip
        with database.write_directly() as direct:
            queries.store_records(direct, [record_of(turn)])
    found = list(prices.unpriced(config))
    assert [(finding.level.value, finding.code) for finding in found] == ([("warning", "missing")] if is_found else [])
    assert all("There is no price for new-model:" in finding.text for finding in found)
