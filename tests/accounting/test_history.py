"""Pages of turns, newest first."""

from __future__ import annotations

from collections.abc import Callable

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.history import TurnFilter
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.storage.database import Database


def test_turns_page_by_page(ledger: Ledger, database: Database, make_turn: Callable[..., Turn]) -> None:
    """Turns come newest first, page by page, even when many began at the same moment, and can be filtered."""
    turns = [
        make_turn(
            id=f"{number:02}",
            started_at=1_772_442_000.0 + number // 4,
            user=("alice", "bob")[number % 2],
            model=("gpt-5", "o3")[number % 3 % 2],
            status=("completed", "cut")[number % 5 // 4],
        )
        for number in range(20)
    ]
    for turn in turns:
        ledger.record(turn)
    pages: list[Turn] = []
    page = history.turns(database, TurnFilter(), 3)
    pages += page.turns
    while page.next is not None:
        page = history.turns(database, TurnFilter(before=page.next), 3)
        pages += page.turns
    assert pages == turns[::-1]
    of_bob = history.turns(database, TurnFilter(user="bob")).turns
    assert of_bob == [turn for turn in turns[::-1] if turn.user == "bob"]
    cut = history.turns(database, TurnFilter(model="o3", status="cut")).turns
    assert cut == [turn for turn in turns[::-1] if (turn.model, turn.status) == ("o3", "cut")]
