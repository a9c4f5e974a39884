"""Turns and events that are too old are deleted; the sums of turns stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting import ledger as ledger_module
from ocm_wsgi.accounting.ledger import EVENT_RETENTION_DAYS, Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import add_event
from tests.accounting.test_ledger import MakeTurn, stored, wait_until
from tests.clock import Clock


def test_retention(
    database: Database,
    state_path: Path,
    clock: Clock,
    make_turn: MakeTurn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Turns older than the retention time are deleted, in whole hours and small steps; sums stay."""
    monkeypatch.setattr(ledger_module, "RETENTION_CHUNK", 2)
    edge = clock() - 3 * DAY_SECONDS
    first = Ledger(database, Spool(state_path / "spool"), clock, retention_days=100)
    for number in range(7):
        first.record(make_turn(id=f"old-{number}", started_at=edge - 1 - number))
    first.record(make_turn(id="young", started_at=edge))
    first.close()
    ledger = Ledger(database, Spool(state_path / "spool"), clock, retention_days=3, chore_seconds=0.01)
    ledger.start()
    wait_until(lambda: len(stored(database)) == 1)
    assert stored(database)[0].id == "young"
    assert ledger.sums()[0].counts.turns == 8
    ledger.close()


def test_retention_with_an_old_journal(database: Database, state_path: Path, clock: Clock, make_turn: MakeTurn) -> None:
    """A journal that is adopted when its turns are due for deletion does not make them count again."""
    turn = make_turn()
    ledger = Ledger(database, Spool(state_path / "spool"), clock, retention_days=3, chore_seconds=0.01)
    ledger.record(turn)
    ledger.close()
    left_behind = state_path / "spool" / "1-dead.journal"
    left_behind.write_text(f"\n{json.dumps(record_of(turn))}\n")
    clock.now += 5 * DAY_SECONDS
    ledger = Ledger(database, Spool(state_path / "spool"), clock, retention_days=3, chore_seconds=0.01)
    ledger.start()
    wait_until(lambda: not stored(database))
    assert not left_behind.exists()
    assert ledger.sums()[0].counts.turns == 1
    ledger.close()


def test_retention_when_the_clock_is_set_back(
    database: Database, state_path: Path, clock: Clock, make_turn: MakeTurn
) -> None:
    """Retention does not wait until the clock is back where it was."""
    clock.now += 30 * DAY_SECONDS
    ledger = Ledger(database, Spool(state_path / "spool"), clock, retention_days=3, chore_seconds=0.01)
    ledger.record(make_turn(id="first", started_at=clock() - 4 * DAY_SECONDS))
    wait_until(lambda: not stored(database))
    clock.now -= 20 * DAY_SECONDS
    ledger.record(make_turn(id="second", started_at=clock() - 4 * DAY_SECONDS))
    wait_until(lambda: not stored(database))
    ledger.close()


def test_retention_of_events(
    database: Database, state_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit trail is kept for 90 days, even if there are no turns to delete."""
    monkeypatch.setattr(ledger_module, "RETENTION_CHUNK", 2)
    edge = clock() - EVENT_RETENTION_DAYS * DAY_SECONDS
    with database.write() as connection:
        add_event(connection, edge, "cli", "user.added", "young")
        for number in range(5):
            add_event(connection, edge - 1 - number, "", "sign_in.failed", f"old-{number}")
    ledger = Ledger(database, Spool(state_path / "spool"), clock, chore_seconds=0.01)
    ledger.start()
    wait_until(lambda: len(history.events(database, None)[0]) == 1)
    assert history.events(database, None)[0][0].subject == "young"
    ledger.close()
