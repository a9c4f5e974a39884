"""Turns of one week have one week, although upstream's reports of its end differ by seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.accounting.weeks import Weeks
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage.database import Database

WEEK = 1_772_442_000
MakeTurn = Callable[..., Turn]


def weeks(ledger: Ledger) -> dict[int | None, int]:
    """Return the number of turns in each week."""
    return {sum_.group["week"]: sum_.counts.turns for sum_ in ledger.sums(by=["week"])}  # type: ignore[misc]


def test_jitter_makes_no_weeks(ledger: Ledger, database: Database, state_path: Path, make_turn: MakeTurn) -> None:
    """The first report of a week decides, whichever process records the others, and in whatever order they differ."""
    other = Ledger(database, Spool(state_path / "other"))
    for number, jitter in enumerate((0, 1, -1, 3, 60, -60, 0, 1)):
        turn = make_turn(week_start=WEEK + jitter, started_at=WEEK + number * 3600.0)
        assert (ledger, other)[number % 2].record(turn) == "database"
    other.close()
    assert weeks(ledger) == {WEEK: 8}
    with database.read() as connection:
        assert set(connection.exec_driver_sql("SELECT week_start FROM turn").scalars()) == {WEEK}


def test_jitter_within_a_batch(ledger: Ledger, database: Database, make_turn: MakeTurn) -> None:
    """Turns that are written together have one week too."""
    records = [record_of(make_turn(week_start=WEEK + jitter)) for jitter in (2, 0, 1, -40)]
    with database.write_directly() as cursor:
        queries.store_records(cursor, Weeks().aligned(cursor, [*records, {}, {"week_start": "x", "credential": 1}]))
    assert weeks(ledger) == {WEEK + 2: 4}


@pytest.mark.parametrize("difference", [61, -61, 7 * DAY_SECONDS, -DAY_SECONDS])
def test_other_weeks_are_not_aligned(ledger: Ledger, make_turn: MakeTurn, difference: int) -> None:
    """A week that begins at another time is another week, and so are those of another credential."""
    ledger.record(make_turn(week_start=WEEK))
    ledger.record(make_turn(week_start=WEEK + difference, started_at=float(WEEK + difference)))
    ledger.record(make_turn(week_start=WEEK + 1, credential="second"))
    ledger.record(make_turn(week_start=None))
    assert weeks(ledger) == {WEEK: 1, WEEK + difference: 1, WEEK + 1: 1, None: 1}
