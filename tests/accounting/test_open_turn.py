"""A turn's slot is released once its record is durable, however the turn ends, and never before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ocm_wsgi.accounting.turn_accounting import OpenTurn, TurnRequest
from ocm_wsgi.protocol.responses.observer import observer_for
from ocm_wsgi.protocol.responses.request import RequestFacts


class SlowAccounting:
    """Notes what happens in which order; an asynchronous record is durable when the test says so."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_failing = False
        self.callbacks: list[Callable[[Any], None]] = []

    def record(self, *_: object) -> None:
        if self.is_failing:
            raise RuntimeError("not recorded")
        self.events.append("recorded")

    def record_async(self, _turn: object, _outcome: object, on_recorded: Callable[[Any], None]) -> None:
        if self.is_failing:
            raise RuntimeError("not recorded")
        self.callbacks.append(on_recorded)

    def become_durable(self) -> None:
        self.events.append("recorded")
        for callback in self.callbacks:
            callback("database")


@pytest.fixture
def accounting() -> SlowAccounting:
    return SlowAccounting()


@pytest.fixture
def turn(accounting: SlowAccounting) -> OpenTurn:
    request = TurnRequest(
        "alice", "responses", RequestFacts(), 0.0, 0.0, release=lambda: accounting.events.append("released")
    )
    observer = observer_for(status=200, media_type="text/event-stream")
    return OpenTurn(
        accounting,  # type: ignore[arg-type]
        request,
        observer,
        status=200,
        transport="sse",
        week_start=None,
        request_id="",
    )


@pytest.mark.parametrize("end", ["record", "close"])
def test_release_follows_record(turn: OpenTurn, accounting: SlowAccounting, end: str) -> None:
    """A turn that ended or was cut is released after its record."""
    getattr(turn, end)()
    assert accounting.events == ["recorded", "released"]
    turn.close()
    assert accounting.events == ["recorded", "released"]


def test_release_follows_asynchronous_record(turn: OpenTurn, accounting: SlowAccounting) -> None:
    """Neither the client's departure nor the end of the relay releases a turn whose record is on its way."""
    called: list[str] = []
    turn.record_async(called.append)
    turn.close_async()
    assert (accounting.events, called) == ([], [])
    accounting.become_durable()
    assert (accounting.events, called) == (["recorded", "released"], ["database"])


def test_release_of_cut_turn(turn: OpenTurn, accounting: SlowAccounting) -> None:
    """A turn that was cut is released once that is recorded."""
    turn.feed(b"data: {}\n\n")
    turn.close_async()
    assert accounting.events == []
    accounting.become_durable()
    assert accounting.events == ["recorded", "released"]


@pytest.mark.parametrize("end", ["record", "close", "close_async"])
def test_release_if_it_cannot_be_recorded(turn: OpenTurn, accounting: SlowAccounting, end: str) -> None:
    """A failure of ours does not hold a user's slot for ever."""
    accounting.is_failing = True
    with pytest.raises(RuntimeError):
        getattr(turn, end)()
    assert accounting.events == ["released"]
