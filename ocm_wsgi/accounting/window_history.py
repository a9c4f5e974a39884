"""The history of upstream's rate limit windows: the percentage used over time, and what our turns had cost by then.

From this, ``shares`` estimates which percentage a dollar uses. A row is written when the percentage has risen or a new
window has begun: some hundred rows per window.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from ocm_wsgi.accounting.queries import LATE_SECONDS, hour_down, hour_up
from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.responses.rate_limits import RateLimits, RateLimitWindow
from ocm_wsgi.quota import shares
from ocm_wsgi.quota.limits import LENGTHS, MEASURES, SAME_END_SECONDS, Cycle, Period, period_of
from ocm_wsgi.quota.shares import Observation, Shares
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.per_process import PerProcess

_log = logging.getLogger(__name__)

#: A fall by at least this, in percentage points, means that upstream has begun a new window, whatever its reset time.
FALL_PERCENT = 2.0

#: The turn that opens a window arrived here at most this long before upstream began the window, in seconds.
OPENING_SECONDS = 10

#: No turn takes longer, in seconds. Turns that were in progress at a moment are searched this far back.
LONGEST_TURN_SECONDS = 3600

#: Rows read for an estimate: enough for the windows that matter, and a bound if upstream reports fractions of percent.
READ_ROWS = 1000


@dataclass(frozen=True)
class Sample:
    """A window as reported by upstream.

    :ivar at: Unix seconds when it was reported.
    """

    cycle: Cycle
    at: float
    used_percent: float


@dataclass(frozen=True)
class WindowState:
    """One of upstream's windows, as admission needs it.

    :ivar latest: the last sample stored; later reports were equivalent.
    :ivar percent_per_usd: see ``shares``; ``None`` if unknown.
    """

    latest: Sample
    percent_per_usd: float | None


def next_sample(before: Sample | None, period: Period, window: RateLimitWindow, at: float) -> Sample | None:
    """Return the sample that a report makes after another one; ``None`` if the report arrived late.

    It recognizes whether the report is about the same window.
    """
    if before is not None and 0 < before.at - at <= LATE_SECONDS:
        return None
    if before is not None and _is_same(before, window):
        return Sample(before.cycle, at, window.used_percent)
    start = window.reset_at - LENGTHS[period] - OPENING_SECONDS
    if before is not None:
        # Earlier usage is not part of the new window, even if upstream began it before the old one had ended.
        start = max(start, before.cycle.end if at >= before.cycle.end else int(min(before.at, at)))
    return Sample(Cycle(start, window.reset_at), at, window.used_percent)


def is_significant(before: Sample | None, sample: Sample) -> bool:
    """Return whether a sample differs enough from the last one stored: a new window, a rise, another whole percent."""
    if before is None or sample.cycle != before.cycle:
        return True
    rise = sample.used_percent - before.used_percent
    return rise >= shares.STEP or (rise > 0 and int(sample.used_percent) > int(before.used_percent))


class WindowHistory:
    """Stores and reads samples of upstream's windows. Safe to create before a fork and to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored: dict[tuple[str, Period], Sample] = {}
        self._seen_at: dict[tuple[str, Period], float] = {}
        self._state_cache: dict[str, tuple[int | None, dict[Period, WindowState]]] = {}
        # Per process, because threads do not survive a fork. An executor without work has none.
        self._writers = PerProcess(lambda: ThreadPoolExecutor(max_workers=1))

    def note(self, credential: str, rate_limits: RateLimits, at: float) -> None:
        """Note the rate limits of a response, as soon as its fields have arrived. Does not block and never raises.

        :param at: Unix seconds when they arrived: upstream had counted the turns that had ended by then.
        """
        own = rate_limits.own
        if own is None:
            return
        for window, default in ((own.primary, MEASURES[0]), (own.secondary, MEASURES[1])):
            if window is None or not window.reset_at:
                continue
            period = period_of(window.window_minutes) if window.window_minutes else default
            if period is not None:
                self._note(credential, period, window, at)

    def _note(self, credential: str, period: Period, window: RateLimitWindow, at: float) -> None:
        stored = self._stored.get((credential, period))
        sample = next_sample(stored, period, window, at)
        if sample is None:
            return
        seen_at = self._seen_at.get((credential, period), 0.0)
        self._seen_at[credential, period] = at
        if is_significant(stored, sample):
            self._stored[credential, period] = sample
            self._writers.get().submit(self._store, credential, period, window, at, seen_at)

    def flush(self) -> None:
        """Wait until everything that this process has noted is stored, or has failed."""
        self._writers.get().submit(int).result()

    def states(self, connection: sa.Connection, credential: str) -> Mapping[Period, WindowState]:
        """Return what is known of upstream's windows. It takes one small query while nothing has changed."""
        newest: int | None = connection.scalar(_NEWEST)
        cached = self._state_cache.get(credential)
        if cached is None or cached[0] != newest:
            cached = newest, _states(connection, credential)
            self._state_cache[credential] = cached
        return cached[1]

    def shares(self, credential: str, period: Period) -> tuple[Cycle, Shares] | None:
        """Return each user's share of upstream's current window; ``None`` if upstream has not reported one yet.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            windows = _windows(connection, credential, period)
            if not windows:
                return None
            cycle = windows[0].latest.cycle
            costs = _costs_by_user(connection, credential, cycle.start, cycle.end)
        first, *earlier = (window.observations for window in windows)
        return cycle, shares.shares(first, costs, earlier)

    def _store(self, credential: str, period: Period, window: RateLimitWindow, at: float, seen_at: float) -> None:
        """Write a row, unless another process has written an equivalent one."""
        try:
            with self._database.write() as connection:
                before = _latest(connection, credential, period)
                sample = next_sample(before, period, window, at)
                if sample is None or not is_significant(before, sample):
                    return
                start = sample.cycle.start
                seen_at = max(min(max(seen_at, before.at if before else 0.0), at), start)
                connection.execute(
                    db.quota_sample.insert(),
                    {
                        "credential": credential,
                        "period": period,
                        "window_start": start,
                        "window_end": sample.cycle.end,
                        "at": at,
                        "used_percent": sample.used_percent,
                        "cost_micro_usd": _cost_by(connection, credential, start, at),
                        "cost_before_micro_usd": _cost_by(connection, credential, start, seen_at),
                    },
                )
        except OcmError as exc:
            _log.warning("Cannot store how much of upstream's window is used: %s", exc.detail or exc)


@dataclass(frozen=True)
class _WindowSamples:
    latest: Sample
    observations: tuple[Observation, ...]


_NEWEST = sa.select(sa.func.max(db.quota_sample.c.id))
_SAMPLE = db.quota_sample.c
_ROWS = (
    sa.select(db.quota_sample)
    .where(_SAMPLE.credential == sa.bindparam("credential"), _SAMPLE.period == sa.bindparam("period"))
    .order_by(_SAMPLE.id.desc())
    .limit(sa.bindparam("rows"))
)


def _is_same(before: Sample, window: RateLimitWindow) -> bool:
    is_near = abs(window.reset_at - before.cycle.end) <= SAME_END_SECONDS
    return is_near and window.used_percent > before.used_percent - FALL_PERCENT


def _sample(row: sa.RowMapping) -> Sample:
    return Sample(Cycle(row["window_start"], row["window_end"]), row["at"], row["used_percent"])


def _latest(connection: sa.Connection, credential: str, period: Period) -> Sample | None:
    parameters = {"credential": credential, "period": period, "rows": 1}
    row = connection.execute(_ROWS, parameters).mappings().first()
    return None if row is None else _sample(row)


def _windows(connection: sa.Connection, credential: str, period: Period) -> list[_WindowSamples]:
    """Return the windows with their samples, newest first."""
    parameters = {"credential": credential, "period": period, "rows": READ_ROWS}
    rows = connection.execute(_ROWS, parameters).mappings().all()
    windows = []
    for _, group in itertools.groupby(rows, key=lambda row: (row["window_start"], row["window_end"])):
        newest_first = list(group)
        observations = [
            Observation(row["used_percent"], row["cost_micro_usd"], row["cost_before_micro_usd"])
            for row in reversed(newest_first)
        ]
        windows.append(_WindowSamples(_sample(newest_first[0]), tuple(observations)))
    return windows


def _states(connection: sa.Connection, credential: str) -> dict[Period, WindowState]:
    states: dict[Period, WindowState] = {}
    for period in MEASURES:
        windows = _windows(connection, credential, period)
        if windows:
            first, *earlier = (window.observations for window in windows)
            estimate = shares.shares(first, {}, earlier)
            states[period] = WindowState(windows[0].latest, estimate.percent_per_usd)
    return states


def _cost_by(connection: sa.Connection, credential: str, start: int, at: float) -> int:
    """Return the cost of the turns that started in a window and had ended by ``at``, in micro-dollars."""
    total = sum(_costs_by_user(connection, credential, start, at).values())
    return max(total - _cost_since(connection, credential, at, start), 0)


def _cost_since(connection: sa.Connection, credential: str, at: float, start: float) -> int:
    """Return the cost of the turns that started at ``start`` or later and ended after ``at``, in micro-dollars."""
    table = db.turn.c
    query = sa.select(sa.func.coalesce(sa.func.sum(table.cost_micro_usd), 0)).where(
        table.credential == credential,
        table.started_at >= max(start, at - LONGEST_TURN_SECONDS),
        table.started_at + table.duration_ms / 1000.0 > at,
    )
    return int(connection.scalar(query) or 0)


def _costs_by_user(connection: sa.Connection, credential: str, start: float, end: float) -> dict[str, int]:
    """Return the cost of the turns that started within a time, in micro-dollars.

    Whole hours come from the sums, and only the two ends from the turns.
    """
    hours, turns = db.turn_hour.c, db.turn.c
    first = min(hour_up(start), end)
    last = max(hour_down(end), first)
    at_ends = sa.or_(
        sa.and_(turns.started_at >= start, turns.started_at < first),
        sa.and_(turns.started_at >= last, turns.started_at < end),
    )
    of_hours = sa.select(hours.user, sa.func.sum(hours.cost_micro_usd)).where(
        hours.credential == credential, hours.hour >= first, hours.hour < last
    )
    of_turns = sa.select(turns.user, sa.func.coalesce(sa.func.sum(turns.cost_micro_usd), 0)).where(
        turns.credential == credential, at_ends
    )
    costs: dict[str, int] = {}
    for query in (of_hours.group_by(hours.user), of_turns.group_by(turns.user)):
        for user, cost in connection.execute(query):
            costs[user] = costs.get(user, 0) + int(cost)
    return costs
