"""Sums against a model of them, and the SQL for PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ocm_wsgi.accounting import history, queries
from ocm_wsgi.accounting.history import Cursor, TurnFilter
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.queries import Counts, Dimension
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.protocol.responses.turn import Turn, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import DAY_SECONDS, HOUR_SECONDS, Totals
from ocm_wsgi.storage.database import Database

START = 1_772_442_000

tokens = st.integers(0, 10**12)
turns = st.builds(
    Turn,
    id=st.sampled_from([f"turn-{number}" for number in range(30)]),
    started_at=st.integers(0, 4 * DAY_SECONDS).map(lambda seconds: START + seconds / 2),
    user=st.sampled_from(["", "alice", "bob"]),
    credential=st.just(DEFAULT_CREDENTIAL),
    model=st.sampled_from(["gpt-5", "o3"]),
    service_tier=st.sampled_from(["default", "flex"]),
    context_window=st.sampled_from([0, 272_000]),
    week_start=st.sampled_from([None, START]),
    usage=st.none() | st.builds(Usage, *[tokens] * 14),
    cost_micro_usd=st.none() | tokens,
    transport=st.just("sse"),
    status=st.just("completed"),
    http_status=st.just(200),
    first_byte_ms=st.just(1),
    duration_ms=st.just(2),
    estimated=st.booleans(),
)
batches = st.lists(st.lists(turns, max_size=10), max_size=5)


def counts_of(turn: Turn) -> Counts:
    """Return what one turn adds to the sums."""
    usage = turn.usage or Usage(0, 0, 0)
    unpriced = int(turn.usage is not None and turn.cost_micro_usd is None)
    return Counts(
        1,
        int(turn.usage is None),
        unpriced,
        int(turn.estimated),
        **asdict(usage),
        cost_micro_usd=turn.cost_micro_usd or 0,
    )


def total(found: list[Turn]) -> Counts:
    """Return the sums over some turns, computed independently."""
    return Counts(*map(sum, zip(*(astuple(counts_of(turn)) for turn in found), strict=True))) if found else Counts()


def group_of(turn: Turn, dimension: Dimension) -> str | int | None:
    """Return the group that a turn belongs to."""
    if dimension == "week":
        return turn.week_start
    if dimension in ("hour", "day"):
        seconds = HOUR_SECONDS if dimension == "hour" else DAY_SECONDS
        return int(turn.started_at // seconds * seconds)
    return getattr(turn, dimension)  # type: ignore[no-any-return]


def stored(path: Path, batches: list[list[Turn]]) -> tuple[Database, list[Turn]]:
    """Store batches in a new database, and return it with the turns that count.

    Of each identifier, that is the turn of the first batch, and within a batch the last.
    """
    database = Database(f"sqlite:///{path}/ocm.sqlite3")
    counted: dict[str, Turn] = {}
    for batch in batches:
        with database.write_directly() as direct:
            queries.store_records(direct, map(record_of, batch))
        counted = {**{turn.id: turn for turn in batch}, **counted}
    return database, list(counted.values())


@settings(max_examples=40, deadline=None)
@given(batches, st.sampled_from([(), ("user",), ("model", "user"), ("day",), ("hour", "service_tier"), ("week",)]))
def test_sums_model(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Turn]], by: tuple[Dimension, ...]
) -> None:
    """For any turns in any batches, repeated or not, each group's sums are those of its turns."""
    database, counted = stored(tmp_path_factory.mktemp("sums"), batches)
    with database.read() as connection:
        found = queries.sums(connection, None, None, by, user=None, utc_offset_seconds=0)
    database.close()
    groups: dict[tuple[str | int | None, ...], list[Turn]] = {} if by else {(): []}
    for turn in counted:
        groups.setdefault(tuple(group_of(turn, dimension) for dimension in by), []).append(turn)
    assert Counter((tuple(each.group[name] for name in by), each.counts) for each in found) == Counter(
        (group, total(members)) for group, members in groups.items()
    )


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(-1, 50), st.integers(0, 2 * HOUR_SECONDS), st.integers(0, 50 * HOUR_SECONDS), st.booleans())
def test_user_window_model(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[Turn]],
    hour: int,
    offset: int,
    length: int,
    is_past: bool,
) -> None:
    """Between any two moments, a user's window counts exactly the turns that started there."""
    since, until = START + hour * HOUR_SECONDS + offset, START + hour * HOUR_SECONDS + offset + length
    if not is_past:
        batches = [[turn for turn in batch if turn.started_at < until] for batch in batches]
    database, counted = stored(tmp_path_factory.mktemp("window"), batches)
    now = until + DAY_SECONDS if is_past else until
    with database.read() as connection:
        window = queries.user_window(connection, "alice", since, until, now=now)
    database.close()
    counts = total([turn for turn in counted if turn.user == "alice" and since <= turn.started_at < until])
    assert window == Totals(counts.turns, counts.input_tokens + counts.output_tokens, counts.cost_micro_usd)


def test_sums_of_repeated_turns(database: Database, make_turn: Callable[..., Turn]) -> None:
    """A batch that was stored before adds nothing to the sums."""
    batch = [record_of(make_turn()) for _ in range(3)]
    summed = []
    for records in (batch, batch, []):
        with database.write_directly() as direct:
            queries.store_records(direct, records)
        with database.read() as connection:
            summed.append(queries.sums_revision(connection))
    assert summed == [6, 6, 6]


def test_store_something_else(database: Database, make_turn: Callable[..., Turn]) -> None:
    """A record that is not a turn does not prevent others from being stored."""
    with database.write_directly() as direct:
        queries.store_records(direct, [{}, {"id": 5}, record_of(make_turn())])
    with database.read() as connection:
        assert queries.sums(connection, None, None, (), user=None, utc_offset_seconds=0)[0].counts.turns == 1


def test_user_window_counts_a_turn_immediately(
    ledger: Ledger, database: Database, clock: Callable[[], float], make_turn: Callable[..., Turn]
) -> None:
    """A turn counts as soon as it is recorded, in the window that it started in, for its user."""
    ledger.record(make_turn(started_at=clock()))
    ledger.record(make_turn(started_at=clock() - 1))
    ledger.record(make_turn(user="bob"))
    with database.read() as connection:
        window = queries.user_window(connection, "alice", clock(), clock() + 1, now=clock())
        assert window == Totals(1, 110, 1_500)
        assert queries.user_window(connection, "carol", 0, clock(), now=clock()).requests == 0


def test_queries_use_indexes(database: Database, make_turn: Callable[..., Turn]) -> None:
    """Admission's query touches no row of ``turn``, and no query of the dashboard scans or sorts the whole table."""
    with database.write_directly() as direct:
        queries.store_records(direct, [record_of(make_turn())])
    with explained() as window, database.read() as connection:
        queries.user_window(connection, "alice", START, START + 9999, now=START + DAY_SECONDS)
    with explained() as pages:
        history.turns(database, TurnFilter(user="alice", before=Cursor(START, "turn-1")))
        history.turns(database, TurnFilter(status="cut"))
        history.turns(database, TurnFilter(model="o3"))
    assert sum("COVERING INDEX turn_by_user" in step for step in window) == 2
    assert sum("SEARCH turn_hour USING PRIMARY KEY (user=? AND hour>? AND hour<?)" in step for step in window) == 1
    assert not [step for step in pages if step.startswith("SCAN turn")]
    # Only the rows that one page looks at, at most MAX_ROWS, are sorted again.
    sorts = [number for number, step in enumerate(pages) if "TEMP B-TREE" in step]
    assert {pages[number - 1] for number in sorts} == {"SCAN anon_1"}
    assert [step for step in pages if "INDEX turn_by_status" in step]


@contextmanager
def explained() -> Iterator[list[str]]:
    """Collect the steps of SQLite's query plan for each statement that is executed within."""
    steps: list[str] = []

    def explain(_connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)  # type: ignore[attr-defined]
        steps.extend(row[-1] for row in cursor.fetchall())  # type: ignore[attr-defined]

    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        yield steps
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)


REFUSALS = [
    pytest.param({"http_status": 400, "status": "error"}, id="refused"),
    pytest.param({"http_status": 0, "status": "cut"}, id="never-begun"),
    pytest.param({"http_status": 0, "status": "cut", "usage": Usage(5, 0, 7), "estimated": True}, id="abandoned"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_names_of_refused_turns_leave_no_sums(
    ledger: Ledger, database: Database, make_turn: Callable[..., Turn], refusal: dict[str, object]
) -> None:
    """However many models and tiers a client makes up, the sums have one row; the turns themselves keep the names."""
    names = {f"made-up-{number}" for number in range(20)}
    for name in names:
        ledger.record(make_turn(**{"usage": None, **refusal, "model": name, "service_tier": name}))
    ledger.record(make_turn(model="gpt-5", service_tier="flex"))
    # Upstream had accepted these: the first was cut, the second failed.
    ledger.record(make_turn(model="gpt-6", usage=None, cost_micro_usd=None, status="cut"))
    ledger.record(make_turn(model="gpt-6", usage=None, cost_micro_usd=None, status="failed"))
    found = {
        (sum_.group["model"], sum_.group["service_tier"]): sum_.counts.turns
        for sum_ in ledger.sums(by=("model", "service_tier"))
    }
    assert found == {("", "default"): 20, ("gpt-5", "flex"): 1, ("gpt-6", "default"): 2}
    with database.read() as connection:
        assert names < set(connection.exec_driver_sql("SELECT model FROM turn").scalars())
    (turn,) = history.turns(database, TurnFilter(model="made-up-7")).turns
    assert turn.service_tier == "made-up-7"
