"""The ledger's SQL: writing turns together with their sums, and querying both.

Every function takes a connection and leaves transactions to its caller.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, itemgetter
from typing import Any, Literal

import sqlalchemy as sa

from ocm_wsgi.accounting.turn_record import Record, completed
from ocm_wsgi.protocol.responses.turn import Usage
from ocm_wsgi.quota.limits import DAY_SECONDS, HOUR_SECONDS, Totals
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.driver_cursor import DriverCursor

Dimension = Literal["user", "credential", "model", "service_tier", "context_window", "hour", "day", "week"]

#: A report from upstream that is at most this much older than the last one, in seconds, arrived late and is ignored.
#: If it is older by more, the clock was set back, and the report is the newer one.
LATE_SECONDS = 300

#: The tier of a request that names none.
DEFAULT_TIER = "default"

_FIRST_ERROR_STATUS = 400

# The status of a response in the background.
_IN_PROGRESS = "in_progress"

#: Turns of a user that ``last_turns`` returns.
LAST_TURNS = 60

_KEY = ("user", "hour", "credential", "model", "service_tier", "context_window", "week_start")
_USAGE = tuple(field.name for field in dataclasses.fields(Usage))
_usage_of = itemgetter(*_USAGE)
_COUNTS = ("turns", "turns_without_usage", "turns_unpriced", "turns_estimated", *_USAGE, "cost_micro_usd")
_COLUMNS = _KEY + _COUNTS


@dataclass(frozen=True)
class Counts:
    """Sums over some turns.

    The units are those of ``Usage``: ``input_tokens`` include those read from and written to the cache,
    ``output_tokens`` include reasoning.

    :ivar turns_without_usage: turns whose usage is unknown, and was not estimated; they add nothing to the tokens.
    :ivar turns_unpriced: turns of a model without a price; their tokens are counted, but they add nothing to the cost.
    :ivar turns_estimated: turns whose usage is our estimate; tokens and cost include it.
    """

    turns: int = 0
    turns_without_usage: int = 0
    turns_unpriced: int = 0
    turns_estimated: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    image_input_tokens: int = 0
    image_cached_tokens: int = 0
    image_output_tokens: int = 0
    audio_input_tokens: int = 0
    audio_cached_tokens: int = 0
    audio_output_tokens: int = 0
    media_ms: int = 0
    characters: int = 0
    items: int = 0
    cost_micro_usd: int = 0


@dataclass(frozen=True)
class Sum:
    """The counts of one group.

    :ivar group: a value for each requested dimension: text, or Unix seconds of the start of the hour, day or week
        (``None`` for an unknown week), or the context window in tokens.
    """

    group: Mapping[Dimension, str | int | None]
    counts: Counts


@dataclass(frozen=True)
class TurnUse:
    """What one turn has used: 0 where that is unknown. ``tokens`` includes input and output."""

    model: str
    tokens: int
    cost_micro_usd: int


def store_records(cursor: DriverCursor, records: Iterable[Record]) -> None:
    """Insert turns that are not in the database yet, and add only those to the sums."""
    complete = {record["id"]: record for record in map(completed, records) if record is not None}
    insert = insert_turns(cursor.dialect.name)
    _add_to_sums(cursor, [record for record in complete.values() if cursor.run(insert, record)])


def add_turns_to_sums(connection: sa.Connection, *, added: Iterable[Record], removed: Iterable[Record]) -> None:
    """Correct the sums: add some turns, and take away others that they contain."""
    rows: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for records, sign in ((added, 1), (removed, -1)):
        for record in records:
            key, counts = _key(record), tuple(sign * count for count in _counts(record))
            rows[key] = tuple(map(add, rows[key], counts)) if key in rows else counts
    for key in sorted(rows):
        connection.execute(add_sums(connection.dialect.name), dict(zip(_COLUMNS, key + rows[key], strict=True)))


def sums_revision(connection: sa.Connection) -> int:
    """Return a number that grows whenever turns are added to the sums, or are settled."""
    table = db.turn_hour.c
    settled = table.turns - table.turns_without_usage - table.turns_estimated
    return int(connection.execute(sa.select(_total(table.turns + settled))).scalar_one())


def sums(
    connection: sa.Connection,
    since: float | None,
    until: float | None,
    by: Sequence[Dimension],
    *,
    user: str | None,
    utc_offset_seconds: int,
) -> list[Sum]:
    """Return sums over turns; see ``Ledger.sums``."""
    table = db.turn_hour.c
    groups = [_group(dimension, utc_offset_seconds).label(dimension) for dimension in by]
    # Named differently from the columns, which GROUP BY must refer to.
    totals = [sa.func.coalesce(sa.func.sum(table[name]), 0).label(f"sum_{name}") for name in _COUNTS]
    query = sa.select(*groups, *totals).group_by(*groups).order_by(*groups)
    if since is not None:
        query = query.where(table.hour >= hour_down(since))
    if until is not None:
        query = query.where(table.hour < hour_down(until))
    if user is not None:
        query = query.where(table.user == user)
    return [_sum(by, tuple(row)) for row in connection.execute(query)]


def user_window(connection: sa.Connection, user: str, since: float, until: float, *, now: float) -> Totals:
    """Return what a user's turns that started within ``since <= t < until`` have used, to the second.

    Takes well below a millisecond, however many turns there are: whole hours come from the sums, and only the two
    ends from the turns. It is quickest where ``until`` is not before ``now``.
    """
    # No turn has started later than now, so the current hour can be used as a whole.
    end = hour_up(until) if until >= now else hour_down(until)
    first = hour_up(since)
    if first <= end:
        edges = {"since": since, "first": first, "end": end, "until": until}
    else:
        edges = {"since": since, "first": until, "end": until, "until": until}
    rows = connection.execute(_USER_WINDOW, {"user_name": user, **edges}).all()
    return Totals(*(int(sum(row[index] for row in rows)) for index in range(3)))


def last_turns(connection: sa.Connection, user: str) -> list[TurnUse]:
    """Return what a user's last turns have used, newest first; ``LAST_TURNS`` at most, however they ended."""
    rows = connection.execute(_LAST_TURNS, {"user_name": user})
    return [TurnUse(model, int(tokens), int(cost)) for model, tokens, cost in rows]


def turns_in_background(connection: sa.Connection, user: str) -> list[tuple[float, TurnUse]]:
    """Return when a user's turns in the background began whose end is not known yet, and what they are charged."""
    rows = connection.execute(_IN_BACKGROUND, {"user_name": user})
    return [(started_at, TurnUse(model, int(tokens), int(cost))) for started_at, model, tokens, cost in rows]


def largest_turn(connection: sa.Connection, user: str) -> int:
    """Return the most tokens, input and output together, of one of a user's turns that are stored."""
    return int(connection.execute(_LARGEST_TURN, {"user_name": user}).scalar_one())


def delete_old_turns(connection: sa.Connection, before: float, limit: int) -> int:
    """Delete the oldest turns that started before ``before``, ``limit`` at most, and return how many. Sums stay."""
    table = db.turn.c
    oldest = sa.select(table.id).where(table.started_at < before).order_by(table.started_at).limit(limit)
    return connection.execute(db.turn.delete().where(table.id.in_(oldest))).rowcount


def delete_old_events(connection: sa.Connection, before: float, limit: int) -> int:
    """Delete the oldest entries of the audit trail from before ``before``, ``limit`` at most; return how many."""
    table = db.event.c
    oldest = sa.select(table.id).where(table.at < before).order_by(table.at, table.id).limit(limit)
    return connection.execute(db.event.delete().where(table.id.in_(oldest))).rowcount


def write_rate_limits(connection: sa.Connection, credential: str, rate_limits: Mapping[str, Any], at: float) -> None:
    """Store a credential's rate limits, unless newer ones are stored."""
    row = {"credential": credential, "at": at, "rate_limits": dict(rate_limits)}
    connection.execute(upsert_rate_limits(connection.dialect.name), row)


def read_rate_limits(connection: sa.Connection, credential: str) -> tuple[Mapping[str, Any], float] | None:
    """Return a credential's rate limits and when they were reported."""
    table = db.quota.c
    row = connection.execute(sa.select(table.rate_limits, table.at).where(table.credential == credential)).first()
    return None if row is None else (row.rate_limits, row.at)


# Building these statements takes several times as long as executing them, so each is built once.


@functools.cache
def insert_turns(dialect_name: str) -> sa.Insert:
    """Return the statement that inserts turns and skips those already stored."""
    return db.insert_for(dialect_name, db.turn).on_conflict_do_nothing(index_elements=["id"])


@functools.cache
def add_sums(dialect_name: str) -> sa.Insert:
    """Return the statement that adds rows to those of the same key."""
    statement = db.insert_for(dialect_name, db.turn_hour)
    added = {name: db.turn_hour.c[name] + statement.excluded[name] for name in _COUNTS}
    return statement.on_conflict_do_update(index_elements=list(_KEY), set_=added)


@functools.cache
def upsert_rate_limits(dialect_name: str) -> sa.Insert:
    """Return the statement that inserts rate limits, or replaces older ones.

    It also replaces those whose time is in the future, because the clock was set back.
    """
    statement = db.insert_for(dialect_name, db.quota)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["credential"],
        set_={"at": new.at, "rate_limits": new.rate_limits},
        where=sa.or_(new.at > db.quota.c.at, new.at < db.quota.c.at - LATE_SECONDS),
    )


def hour_down(time: float) -> int:
    """Return ``time``, in Unix seconds, rounded down to the hour."""
    return math.floor(time / HOUR_SECONDS) * HOUR_SECONDS


def hour_up(time: float) -> int:
    """Return ``time``, in Unix seconds, rounded up to the hour."""
    return math.ceil(time / HOUR_SECONDS) * HOUR_SECONDS


def _add_to_sums(cursor: DriverCursor, records: Iterable[Record]) -> None:
    rows: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for record in records:
        key, counts = _key(record), _counts(record)
        rows[key] = tuple(map(add, rows[key], counts)) if key in rows else counts
    # In the same order everywhere, so that two writers on PostgreSQL cannot deadlock.
    for key in sorted(rows):
        cursor.run(add_sums(cursor.dialect.name), dict(zip(_COLUMNS, key + rows[key], strict=True)))


def _key(record: Record) -> tuple[Any, ...]:
    """Return the values of ``_KEY``.

    Sums are kept for good, so they name only models and tiers that upstream has accepted: those of a turn that it
    refused, or never began, are whatever the client has made up, a new row for each.
    """
    has_usage = record["input_tokens"] is not None and not record["estimated"]
    is_accepted = has_usage or 0 < record["http_status"] < _FIRST_ERROR_STATUS
    return (
        record["user"],
        hour_down(record["started_at"]),
        record["credential"],
        record["model"] if is_accepted else "",
        record["service_tier"] if is_accepted else DEFAULT_TIER,
        record["context_window"],
        record["week_start"] or 0,
    )


def _counts(record: Record) -> tuple[int, ...]:
    """Return the values of ``_COUNTS``."""
    has_usage, cost = record["input_tokens"] is not None, record["cost_micro_usd"]
    usage = [value or 0 for value in _usage_of(record)]
    return 1, int(not has_usage), int(has_usage and cost is None), int(record["estimated"]), *usage, cost or 0


def _group(dimension: Dimension, utc_offset_seconds: int) -> sa.ColumnElement[Any]:
    table = db.turn_hour.c
    if dimension == "day":
        return table.hour - (table.hour + utc_offset_seconds) % DAY_SECONDS
    return table["week_start" if dimension == "week" else dimension]


def _sum(by: Sequence[Dimension], row: tuple[Any, ...]) -> Sum:
    group = dict(zip(by, row, strict=False))
    if group.get("week") == 0:
        group["week"] = None
    # PostgreSQL returns sums of integers as decimals.
    return Sum(group, Counts(*(int(value) for value in row[len(by) :])))


def _window_of_turns(since: str, until: str) -> sa.Select[Any]:
    table = db.turn.c
    tokens = sa.func.coalesce(table.input_tokens, 0) + sa.func.coalesce(table.output_tokens, 0)
    return sa.select(sa.func.count(), _total(tokens), _total(table.cost_micro_usd)).where(
        table.user == sa.bindparam("user_name"),
        table.started_at >= sa.bindparam(since, type_=sa.Double),
        table.started_at < sa.bindparam(until, type_=sa.Double),
    )


def _window_of_hours(since: str, until: str) -> sa.Select[Any]:
    table = db.turn_hour.c
    tokens = table.input_tokens + table.output_tokens
    return sa.select(_total(table.turns), _total(tokens), _total(table.cost_micro_usd)).where(
        table.user == sa.bindparam("user_name"),
        table.hour >= sa.bindparam(since, type_=sa.Double),
        table.hour < sa.bindparam(until, type_=sa.Double),
    )


def _total(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _uses(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    table = db.turn.c
    tokens = sa.func.coalesce(table.input_tokens, 0) + sa.func.coalesce(table.output_tokens, 0)
    return sa.select(*columns, table.model, tokens, sa.func.coalesce(table.cost_micro_usd, 0))


_LAST_TURNS = (
    _uses()
    .where(db.turn.c.user == sa.bindparam("user_name"), db.turn.c.status != _IN_PROGRESS)
    .order_by(db.turn.c.started_at.desc(), db.turn.c.id.desc())
    .limit(LAST_TURNS)
)
# By the index of the status: few turns are in progress, and a user may have any number of others.
_IN_BACKGROUND = _uses(db.turn.c.started_at).where(
    db.turn.c.status == _IN_PROGRESS, db.turn.c.user.concat("") == sa.bindparam("user_name", type_=sa.Text)
)
_LARGEST_TURN = sa.select(sa.func.coalesce(sa.func.max(db.turn.c.input_tokens + db.turn.c.output_tokens), 0)).where(
    db.turn.c.user == sa.bindparam("user_name")
)

_USER_WINDOW = sa.union_all(
    _window_of_turns("since", "first"),
    _window_of_hours("first", "end"),
    _window_of_turns("end", "until"),
)
