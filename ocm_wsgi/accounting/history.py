"""Pages of turns and events, newest first, without counting all rows. No Flask.

A page of turns examines a bounded number of rows, however few of them match. It may then contain fewer turns than it
has room for, and names the cursor of the next page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ocm_wsgi.accounting.queries import hour_down
from ocm_wsgi.accounting.turn_record import turn_of
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.quota.limits import HOUR_SECONDS
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database

#: Turns or events of one page.
PAGE = 50
#: Rows that one page examines, at most.
MAX_ROWS = 10_000
#: Turns of one CSV file, at most.
MAX_CSV_TURNS = 50_000

_CURSOR = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)~([\w.:-]{1,100})", re.ASCII)


@dataclass(frozen=True)
class Cursor:
    """A position in the order of turns. A page begins after it: with the next older turn."""

    at: float
    id: str

    def __str__(self) -> str:
        return f"{self.at!r}~{self.id}"


@dataclass(frozen=True)
class TurnFilter:
    """Conditions that a turn must meet; ``None`` for any.

    :ivar since: Unix seconds, as is ``until``, which is exclusive.
    :ivar before: the cursor of the page.
    """

    user: str | None = None
    model: str | None = None
    status: str | None = None
    since: float | None = None
    until: float | None = None
    before: Cursor | None = None


@dataclass(frozen=True)
class Page:
    """A page of turns.

    :ivar next: the cursor of the next page; ``None`` at the end.
    """

    turns: Sequence[Turn]
    next: Cursor | None


@dataclass(frozen=True)
class Event:
    """An entry of the audit trail."""

    id: int
    at: float
    actor: str
    kind: str
    subject: str
    detail: Any


def parse_cursor(text: str) -> Cursor | None:
    """Return the cursor that a page's URL contains; ``None`` if it is invalid."""
    found = _CURSOR.fullmatch(text)
    return Cursor(float(found[1]), found[2]) if found else None


def turns(database: Database, turn_filter: TurnFilter, limit: int = PAGE) -> Page:
    """Return a page of turns.

    :raises StateError: the database cannot be read.
    """
    with database.read() as connection:
        turn_filter = _skip_to_model(connection, turn_filter)
        table = db.turn.c
        # The user or the status selects an index; the other conditions are checked on the rows found there.
        examined = sa.select(db.turn).order_by(table.started_at.desc(), table.id.desc()).limit(MAX_ROWS)
        examined = _within(examined, turn_filter)
        rows = examined.subquery()
        query = sa.select(rows).order_by(rows.c.started_at.desc(), rows.c.id.desc()).limit(limit + 1)
        if turn_filter.user is not None and turn_filter.status is not None:
            query = query.where(rows.c.status == turn_filter.status)
        if turn_filter.model is not None:
            query = query.where(rows.c.model == turn_filter.model)
        found = [turn_of(dict(row)) for row in connection.execute(query).mappings()]
        if len(found) > limit:
            return Page(found[:limit], Cursor(found[limit - 1].started_at, found[limit - 1].id))
        last = connection.execute(
            _within(sa.select(table.started_at, table.id), turn_filter)
            .order_by(table.started_at.desc(), table.id.desc())
            .offset(MAX_ROWS - 1)
            .limit(1)
        ).first()
        return Page(found, None if last is None else Cursor(last.started_at, last.id))


def all_turns(database: Database, turn_filter: TurnFilter) -> Iterator[Turn]:
    """Yield the turns that match, up to ``MAX_CSV_TURNS``.

    :raises StateError: the database cannot be read.
    """
    count, before = 0, turn_filter.before
    while count < MAX_CSV_TURNS:
        page = turns(database, replace(turn_filter, before=before), 1000)
        yield from page.turns[: MAX_CSV_TURNS - count]
        count, before = count + len(page.turns), page.next
        if before is None:
            return


def names(database: Database, since: float, user: str | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the users and of the models that have turns, sorted.

    :raises StateError: the database cannot be read.
    """
    table = db.turn_hour.c
    query = sa.select(table.user, table.model).where(table.hour >= hour_down(since)).distinct()
    if user is not None:
        query = query.where(table.user == user)
    with database.read() as connection:
        found = connection.execute(query).all()
    return sorted({row.user for row in found}), sorted({row.model for row in found})


def events(database: Database, before: int | None, limit: int = PAGE) -> tuple[list[Event], int | None]:
    """Return a page of the audit trail, and the ``before`` of the next page; ``None`` at the end.

    :raises StateError: the database cannot be read.
    """
    query = sa.select(db.event).order_by(db.event.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(db.event.c.id < before)
    with database.read() as connection:
        found = [Event(**row) for row in connection.execute(query).mappings()]
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def _within(query: sa.Select[Any], turn_filter: TurnFilter) -> sa.Select[Any]:
    table = db.turn.c
    if turn_filter.user is not None:
        query = query.where(table.user == turn_filter.user)
    elif turn_filter.status is not None:
        query = query.where(table.status == turn_filter.status)
    if turn_filter.since is not None:
        query = query.where(table.started_at >= turn_filter.since)
    if turn_filter.until is not None:
        query = query.where(table.started_at < turn_filter.until)
    if turn_filter.before is not None:
        query = query.where(
            sa.tuple_(table.started_at, table.id) < sa.tuple_(turn_filter.before.at, turn_filter.before.id)
        )
    return query


def _skip_to_model(connection: sa.Connection, turn_filter: TurnFilter) -> TurnFilter:
    """Return the filter, narrowed to begin at the newest hour with a turn of its model, which the sums show.

    Turns that upstream refused are in the sums without their model.
    """
    if turn_filter.model is None:
        return turn_filter
    hours = db.turn_hour.c
    query = sa.select(sa.func.max(hours.hour)).where(hours.model.in_((turn_filter.model, "")))
    if turn_filter.user is not None:
        query = query.where(hours.user == turn_filter.user)
    ends = [
        time for time in (turn_filter.until, turn_filter.before.at if turn_filter.before else None) if time is not None
    ]
    if ends:
        query = query.where(hours.hour <= hour_down(min(ends)))
    newest = connection.scalar(query)
    end = 0 if newest is None else newest + HOUR_SECONDS
    return replace(turn_filter, until=min([end, *ends]))
