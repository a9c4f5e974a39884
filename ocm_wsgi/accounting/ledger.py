"""The ledger: records each turn durably and exactly once, and returns sums over turns.

Writes go through one ``Recorder`` per process, reads directly to the database. Sums are updated in the same transaction
as the turns they add up, so they can be trusted without them, and outlive them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue

import filelock
import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.queries import Dimension, Sum
from ocm_wsgi.accounting.recorder import Backlog, Durability, OnRecorded, Recorder
from ocm_wsgi.accounting.settled_turns import is_settlement, settle
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_record import Record, record_of
from ocm_wsgi.accounting.weeks import Weeks
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.turn import Turn
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.per_process import PerProcess

_log = logging.getLogger(__name__)

#: Turns are kept for this long, sums forever.
RETENTION_DAYS = 30

#: The audit trail is kept for this long. Strangers can add to it, by failing to sign in.
EVENT_RETENTION_DAYS = 90

#: Turns, or events, that retention deletes per transaction: some milliseconds during which nothing else can be written.
RETENTION_CHUNK = 500

#: How often a process looks for journals of dead processes, and for turns and events that are too old, in seconds.
CHORE_SECONDS = 60.0
RETENTION_SECONDS = 3600.0

#: Rate limits seen within this time are written together, in seconds.
RATE_LIMITS_SECONDS = 1.0

_EVENT_RETENTION_SECONDS = EVENT_RETENTION_DAYS * DAY_SECONDS
_RATE_LIMITS = TypeAdapter(RateLimits)


@dataclass(frozen=True)
class RateLimitsSnapshot:
    """The rate limits of a credential, as last reported by upstream.

    :ivar limits: of all families; each as it was last reported.
    :ivar at: Unix seconds of the last report.
    """

    limits: RateLimits
    at: float

    def updated_by(self, newer: RateLimitsSnapshot) -> RateLimitsSnapshot:
        """Return what is known after a later report."""
        if newer.limits is self.limits:
            return newer
        return replace(newer, limits=self.limits.updated_by(newer.limits, newer.at))


class Ledger:
    """The record of all turns.

    Safe to create before a fork and to share between threads. Its own threads start at the first record.

    :param clock: returns Unix seconds.
    :param retention_days: how long turns are kept, at least 1.
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
        self._retention_seconds = retention_days * DAY_SECONDS
        self._retention_at: float | None = None
        self._latest_rate_limits: dict[str, RateLimitsSnapshot] = {}
        self._written_rate_limits: dict[str, RateLimitsSnapshot] = {}
        self._weeks = Weeks()
        self._recorders = PerProcess(
            lambda: Recorder(self._store, self._spool, chore=self._do_chores, chore_seconds=chore_seconds),
            on_inherited=Recorder.abandon,
        )

    def record(self, turn: Turn, timeout_seconds: float = 1.0) -> Durability:
        """Record a turn, and wait until that is durable, or until soon after ``timeout_seconds``. Never raises.

        :return: ``database`` or ``spool``: the record survives ``kill -9`` of every process, and is or will be in the
            database exactly once. ``memory``: it could not be written to either; this process keeps retrying.
        """
        results: SimpleQueue[Durability] = SimpleQueue()
        self.record_async(turn, results.put, timeout_seconds=timeout_seconds)
        try:
            return results.get(timeout=timeout_seconds + 0.5)
        except Empty:
            # Only a disk that does not respond at all keeps the recorder from calling back in time.
            return "memory"

    def record_async(self, turn: Turn, on_recorded: OnRecorded, *, timeout_seconds: float = 1.0) -> None:
        """Record a turn without waiting, and call ``on_recorded`` once, from a thread of the recorder. Never raises.

        :param on_recorded: must return quickly.
        :param timeout_seconds: as for ``record``.
        """
        try:
            record = record_of(turn)
        except Exception:
            _log.exception("Cannot record turn %s", turn.id)
            on_recorded("memory")
            return
        self.submit(record, on_recorded, timeout_seconds=timeout_seconds)

    def submit(self, record: Record, on_recorded: OnRecorded, *, timeout_seconds: float) -> None:
        """Write a record without waiting, and call ``on_recorded`` once, from a thread of the recorder. Never raises.

        :param record: of a turn, or of its settlement.
        """
        try:
            while not self._recorders.get().submit(record, on_recorded, timeout_seconds):
                # It was closed in the meantime. It is forgotten before it is closed, so the next one is another.
                continue
        except Exception:
            # A turn in progress must not fail because it cannot be recorded.
            _log.exception("Cannot write a record")
            on_recorded("memory")

    def start(self) -> None:
        """Write the journals of dead processes to the database now, instead of at the first record."""
        self._recorders.get().expect_chore(0.0)

    def close(self) -> None:
        """Write all pending records and end the threads. A later record starts new ones."""
        recorder = self._recorders.pop()
        if recorder is not None:
            recorder.close()

    def backlog(self) -> Backlog:
        """Return how many records of this process are not in the database yet."""
        return self._recorders.get().backlog()

    def note_rate_limits(self, credential: str, limits: RateLimits, at: float) -> RateLimitsSnapshot:
        """Store the rate limits that upstream has just reported, and return all that this process knows.

        They reach the database within about a second.
        """
        snapshot, before = RateLimitsSnapshot(limits, at), self._latest_rate_limits.get(credential)
        if before is not None:
            snapshot = before.updated_by(snapshot)
        self._latest_rate_limits[credential] = snapshot
        self._recorders.get().expect_chore(RATE_LIMITS_SECONDS)
        return snapshot

    def noted_rate_limits(self, credential: str) -> RateLimitsSnapshot | None:
        """Return the newest rate limits that this process has noted. Does not query the database."""
        return self._latest_rate_limits.get(credential)

    def rate_limits(self, credential: str) -> RateLimitsSnapshot | None:
        """Return the newest rate limits that any process has noted.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            stored = _stored_rate_limits(connection, credential)
        latest = self._latest_rate_limits.get(credential)
        if stored is None or latest is None:
            return stored or latest
        older, newer = sorted((stored, latest), key=lambda snapshot: snapshot.at)
        return older.updated_by(newer)

    def sums(
        self,
        since: float | None = None,
        until: float | None = None,
        by: Sequence[Dimension] = (),
        *,
        user: str | None = None,
        utc_offset_seconds: int = 0,
    ) -> list[Sum]:
        """Return sums over turns, grouped and sorted by some dimensions.

        :param since: Unix seconds, rounded down to the hour; ``None``: from the first turn.
        :param until: Unix seconds, rounded down to the hour, exclusive; ``None``: to the last turn.
        :param by: the dimensions; with none, there is one sum, of zeros if there are no turns.
        :param user: only this user's turns; ``None``: everyone's.
        :param utc_offset_seconds: the time zone in which days begin, positive east of Greenwich.
        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            return queries.sums(connection, since, until, by, user=user, utc_offset_seconds=utc_offset_seconds)

    def largest_turn(self, user: str) -> int:
        """Return the most tokens, input and output together, of one of a user's turns; 0 without turns.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            return queries.largest_turn(connection, user)

    def _store(self, records: Sequence[Record]) -> None:
        store_records(self._database, records, self._weeks)

    def _do_chores(self) -> bool:
        self._write_rate_limits()
        now = self._clock()
        if self._retention_at is None:
            # Not at the start: another process may have just adopted an old journal, whose records would count as new
            # once their turns are deleted.
            self._retention_at = now
            return False
        # It can only be further ahead if the clock was set back.
        if now < self._retention_at <= now + RETENTION_SECONDS:
            return False
        has_more = self._delete_old_rows(now)
        if not has_more:
            self._retention_at = now + RETENTION_SECONDS
        return has_more

    def _write_rate_limits(self) -> None:
        pending = {
            credential: snapshot
            for credential, snapshot in list(self._latest_rate_limits.items())
            if self._written_rate_limits.get(credential) is not snapshot
        }
        if not pending:
            return
        with self._database.write() as connection:
            for credential, snapshot in pending.items():
                stored = _stored_rate_limits(connection, credential)
                known = snapshot if stored is None else stored.updated_by(snapshot)
                queries.write_rate_limits(connection, credential, asdict(known.limits), known.at)
        self._written_rate_limits.update(pending)

    def _delete_old_rows(self, now: float) -> bool:
        """Delete some turns and events that are too old, unless another process is doing so.

        Return whether there may be more.

        Only whole hours are deleted: ``user_window`` expects an hour's turns to be complete.
        """
        lock = filelock.FileLock(self._spool.path / "retention.lock", mode=0o600, fallback_to_soft=False)
        try:
            with lock.acquire(blocking=False), self._database.write() as connection:
                before = queries.hour_down(now - self._retention_seconds)
                turns = queries.delete_old_turns(connection, before, RETENTION_CHUNK)
                events = queries.delete_old_events(connection, now - _EVENT_RETENTION_SECONDS, RETENTION_CHUNK)
                return RETENTION_CHUNK in (turns, events)
        except filelock.Timeout:
            return False


def store_records(database: Database, records: Sequence[Record], weeks: Weeks) -> None:
    """Write records of turns and of settlements that are not in the database yet.

    :raises StateError: some of them may have been written; they can be written again.
    """
    turns = [record for record in records if not is_settlement(record)]
    with database.write_directly() as cursor:
        queries.store_records(cursor, weeks.aligned(cursor, turns))
    # Only now: a settlement may be of one of these turns.
    if len(turns) < len(records):
        with database.write() as connection:
            settle(connection, filter(is_settlement, records))


def _stored_rate_limits(connection: sa.Connection, credential: str) -> RateLimitsSnapshot | None:
    row = queries.read_rate_limits(connection, credential)
    # Those of another release may have another form; the next report replaces them.
    with contextlib.suppress(ValidationError):
        return None if row is None else RateLimitsSnapshot(_RATE_LIMITS.validate_python(row[0]), row[1])
    return None
