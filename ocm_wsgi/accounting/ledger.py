"""What was used: turns recorded once and durably, and questions about them.

Writing goes through one ``Recorder`` a process, reading straight to the database. Sums are kept in the same
transaction as the turns they are made of, so they can be trusted alone, and outlive them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import filelock
from pydantic import TypeAdapter

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.queries import Dimension, Sum
from ocm_wsgi.accounting.recorder import Backlog, Durability, OnRecorded, Recorder
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import Record, record_of
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.per_process import PerProcess

logger = logging.getLogger(__name__)

#: Raw turns are kept for this long, sums for good.
RETENTION_DAYS = 30

#: Turns that retention deletes in one transaction: some milliseconds in which nothing else can be written.
RETENTION_CHUNK = 500

#: How often a process looks for what the dead left in the spool, and how often for turns that are too old.
CHORE_SECONDS = 60.0
RETENTION_SECONDS = 3600.0

#: How long rate limits that were seen wait, so that they are written together.
RATE_LIMITS_SECONDS = 1.0

_RATE_LIMITS = TypeAdapter(RateLimits)


@dataclass(frozen=True)
class RateLimitsSnapshot:
    """The rate limits of a credential, as upstream last told them.

    :ivar rate_limits: what JSON can hold, as it was given to ``Ledger.note_rate_limits``.
    :ivar at: Unix seconds when they were seen.
    """

    rate_limits: Mapping[str, Any]
    at: float

    @property
    def limits(self) -> RateLimits:
        """The rate limits as values."""
        return _RATE_LIMITS.validate_python(self.rate_limits)


class Ledger:
    """The record of all turns.

    Safe to make before a fork and to share between threads. Its threads start at the first record.

    :param clock: gives Unix seconds.
    :param retention_days: how long raw turns are kept, at least 1.
    :param chore_seconds: see ``CHORE_SECONDS``.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        clock: Callable[[], float] = time.time,
        *,
        retention_days: int = RETENTION_DAYS,
        chore_seconds: float = CHORE_SECONDS,
    ) -> None:
        self._database = database
        self._spool = spool
        self._clock = clock
        self._retention_seconds = retention_days * queries.DAY_SECONDS
        self._retention_at: float | None = None
        self._seen_rate_limits: dict[str, RateLimitsSnapshot] = {}
        self._written_rate_limits: dict[str, RateLimitsSnapshot] = {}
        self._recorders = PerProcess(
            lambda: Recorder(self._store, self._spool, chore=self._do_chores, chore_seconds=chore_seconds),
            on_inherited=Recorder.abandon,
        )

    def record(self, turn: Turn, timeout_seconds: float = 1.0) -> Durability:
        """Wait until the turn's record is safe, or until soon after ``timeout_seconds``. Never raises.

        :return: ``database`` or ``spool``: it survives ``kill -9`` of every process, and is or will be in the
            database once. ``memory``: neither could take it; this process goes on trying.
        """
        results: SimpleQueue[Durability] = SimpleQueue()
        self.record_async(turn, results.put, timeout_seconds=timeout_seconds)
        try:
            return results.get(timeout=timeout_seconds + 0.5)
        except Empty:
            # Only a disk that does not answer at all keeps the recorder from telling in time.
            return "memory"

    def record_async(self, turn: Turn, on_recorded: OnRecorded, *, timeout_seconds: float = 1.0) -> None:
        """As ``record``, without waiting: call ``on_recorded`` once, from a thread of the recorder.

        It must return quickly.
        """
        try:
            record = record_of(turn)
            while not self._recorders.get().submit(record, on_recorded, timeout_seconds):
                # Closed under us; whoever closes it forgets it first, so the next one is new.
                continue
        except Exception:
            # A turn that is under way must not fail for its record's sake.
            logger.exception("Turn %s could not be recorded", turn.id)
            on_recorded("memory")

    def start(self) -> None:
        """Bring what a dead process left in the spool into the database, without waiting for the first record."""
        self._recorders.get().expect_chore(0.0)

    def close(self) -> None:
        """Write what waits and end the threads. A record that comes later starts new ones."""
        recorder = self._recorders.pop()
        if recorder is not None:
            recorder.close()

    def backlog(self) -> Backlog:
        """Say what this process has not yet brought into the database."""
        return self._recorders.get().backlog()

    def note_rate_limits(self, credential: str, rate_limits: Mapping[str, Any], at: float) -> None:
        """Keep the rate limits that upstream just told. They are in the database within about a second.

        :param rate_limits: what JSON can hold.
        """
        self._seen_rate_limits[credential] = RateLimitsSnapshot(rate_limits, at)
        self._recorders.get().expect_chore(RATE_LIMITS_SECONDS)

    def rate_limits(self, credential: str) -> RateLimitsSnapshot | None:
        """Give the newest rate limits that any process has seen.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            row = queries.read_rate_limits(connection, credential)
        known = [RateLimitsSnapshot(*row)] if row is not None else []
        if credential in self._seen_rate_limits:
            known.append(self._seen_rate_limits[credential])
        return max(known, key=lambda quota: quota.at, default=None)

    def sums(
        self,
        since: float | None = None,
        until: float | None = None,
        by: Sequence[Dimension] = (),
        *,
        user: str | None = None,
        utc_offset_seconds: int = 0,
    ) -> list[Sum]:
        """Add up turns, grouped.

        :param since: Unix seconds, from the beginning of the hour they fall in; ``None``: from the first turn.
        :param until: Unix seconds, to the beginning of the hour they fall in; ``None``: to the last turn.
        :param by: the groups, ordered by them; none gives one sum, of zeros when there is no turn.
        :param utc_offset_seconds: where days begin, east of Greenwich being positive.
        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            return queries.sums(connection, since, until, by, user=user, utc_offset_seconds=utc_offset_seconds)

    def _store(self, records: Sequence[Record]) -> None:
        with self._database.write_directly() as cursor:
            queries.store_records(cursor, records)

    def _do_chores(self) -> bool:
        self._write_rate_limits()
        now = self._clock()
        if self._retention_at is None:
            # Not at the start, when another process may just have found an old journal: a record in there counts as
            # new when its turn is gone.
            self._retention_at = now
            return False
        # Further ahead it can only be when the clock was set back.
        if now < self._retention_at <= now + RETENTION_SECONDS:
            return False
        has_more = self._delete_old_turns(now)
        if not has_more:
            self._retention_at = now + RETENTION_SECONDS
        return has_more

    def _write_rate_limits(self) -> None:
        pending = {
            credential: quota
            for credential, quota in list(self._seen_rate_limits.items())
            if self._written_rate_limits.get(credential) is not quota
        }
        if not pending:
            return
        with self._database.write() as connection:
            for credential, quota in pending.items():
                queries.write_rate_limits(connection, credential, quota.rate_limits, quota.at)
        self._written_rate_limits.update(pending)

    def _delete_old_turns(self, now: float) -> bool:
        """Delete some turns that are too old, unless another process is at it; say whether there may be more.

        Whole hours only: ``user_window`` takes the turns of an hour for complete.
        """
        lock = filelock.FileLock(self._spool.path / "retention.lock", mode=0o600, fallback_to_soft=False)
        try:
            with lock.acquire(blocking=False), self._database.write() as connection:
                before = queries.hour_down(now - self._retention_seconds)
                return queries.delete_old_turns(connection, before, RETENTION_CHUNK) == RETENTION_CHUNK
        except filelock.Timeout:
            return False
