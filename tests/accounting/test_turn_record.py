"""Turns as flat records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ocm_wsgi.accounting.turn_record import MAX_NUMBER, MAX_TEXT_LENGTH, completed, record_of, turn_of
from ocm_wsgi.protocol.responses.turn import Turn, Usage


@pytest.mark.parametrize("usage", [None, Usage(*range(1, 15)), Usage(0, 0, 0)])
@pytest.mark.parametrize("estimated", [False, True])
def test_record_of_round_trip(make_turn: Callable[..., Turn], usage: Usage | None, estimated: bool) -> None:
    """A turn is restored unchanged; unknown usage is not zero usage."""
    turn = make_turn(usage=usage, week_start=1_772_000_000, started_at=1.25, estimated=estimated)
    assert turn_of(record_of(turn)) == turn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("gpt-5", "gpt-5", id="plain"),
        pytest.param("ü", "ü", id="not-ascii"),
        pytest.param("x" * 1_000_000, "x" * MAX_TEXT_LENGTH, id="long"),
        pytest.param("a\ud800b", "a?b", id="lone-surrogate"),
        pytest.param("a\0b", "ab", id="nul"),
    ],
)
def test_record_of_hostile_text(make_turn: Callable[..., Turn], text: str, expected: str) -> None:
    """No name that a client chooses can make a record large, or one that the database refuses."""
    assert record_of(make_turn(model=text))["model"] == expected


@pytest.mark.parametrize(("number", "expected"), [(-1, 0), (0, 0), (10**30, MAX_NUMBER)])
def test_record_of_hostile_number(make_turn: Callable[..., Turn], number: int, expected: int) -> None:
    """Numbers are limited to those that can be stored and added up."""
    assert record_of(make_turn(usage=Usage(number, 0, 0)))["input_tokens"] == expected


def test_completed_of_another_release() -> None:
    """Fields that an older release lacks get defaults, and unknown fields of a newer one are dropped."""
    record = completed({"id": "1", "started_at": 5.0, "input_tokens": 7, "colour": "red"})
    assert record is not None
    assert (turn_of(record).usage, turn_of(record).estimated) == (Usage(7, 0, 0), False)
    assert "colour" not in record


def test_completed_without_values(make_turn: Callable[..., Turn]) -> None:
    """Required fields without a value get defaults."""
    record = completed(record_of(make_turn(model=None, week_start=None)))
    assert record is not None
    assert (record["model"], record["week_start"]) == ("", None)


@pytest.mark.parametrize("record", [{}, {"id": 5, "started_at": 1.0}, {"id": "1"}, {"id": "1", "started_at": "now"}])
def test_completed_of_something_else(record: dict[str, object]) -> None:
    """Anything but the record of a turn is rejected."""
    assert completed(record) is None
