"""Makes records durable with two threads: one writes to the database, the other spools to disk when that is too slow.

The *writer* commits all pending records in one transaction, so that fifty threads pay for one. The *spooler* enforces
the deadlines: records that are overdue, or arrive while the database is known to fail, go to the process's journal, and
from there to the database once it has recovered. A record may reach the database both ways; the store must ignore the
second.

A recorder belongs to one process and must be created again after a fork. It does not interpret records.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from ocm_wsgi.accounting.spool import Journals, Spool
from ocm_wsgi.accounting.turn_record import Record
from ocm_wsgi.errors import StateError

_log = logging.getLogger(__name__)

#: Where a record is stored. In ``memory`` it does not survive the process: writing to the database and to disk failed.
Durability = Literal["database", "spool", "memory"]

#: Called with where the record is stored, from a thread of the recorder. Must return quickly.
OnRecorded = Callable[[Durability], None]

#: Records per transaction. Large enough for bursts, small enough to block other writers for milliseconds only.
BATCH_SIZE = 200

#: Backoff after the database failed, in seconds: the first, doubled at each further failure, and the longest.
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 15.0

#: Interval between two attempts to spool records that are only in memory, in seconds.
MEMORY_RETRY_SECONDS = 1.0

#: How long ``close`` waits for each of the threads, in seconds.
CLOSE_SECONDS = 6.0

_FAILING = "Cannot write to the state database (%s); spooling records to disk until it recovers."


def ignore_durability(_durability: Durability) -> None:
    """Do nothing: an ``OnRecorded`` for where no client is left that waits for the record."""


@dataclass(frozen=True)
class Backlog:
    """This process's records that are not in the database yet.

    :ivar memory: records in memory only; they would be lost with the process.
    :ivar spool: records in this process's journal.
    :ivar is_database_failing: whether the last attempt to write failed or took too long.
    """

    memory: int
    spool: int
    is_database_failing: bool


@dataclass
class _Pending:
    record: Record
    overdue_at: float
    on_recorded: OnRecorded | None


class _WakeUp:
    """Wakes the one thread that waits for it, now or next. ``threading.Condition`` takes several times as long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def notify(self) -> None:
        try:  # noqa: SIM105 - a context manager takes longer than this
            self._lock.release()
        except RuntimeError:
            pass  # It was notified already.

    def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=seconds)


class Recorder:
    """Makes records durable in the background, from the first ``submit`` until ``close``.

    :param store: writes records in one transaction and ignores those already stored. Raises ``StateError``.
    :param chore: other work for the writer, called at the start and every ``chore_seconds``, while there is no journal
        to read back. Returns True if there is more to do immediately.
    """

    def __init__(
        self,
        store: Callable[[Sequence[Record]], None],
        spool: Spool,
        *,
        chore: Callable[[], bool],
        chore_seconds: float,
    ) -> None:
        self._store = store
        self._spool = spool
        self._chore = chore
        self._chore_seconds = chore_seconds
        self._lock = threading.Lock()
        self._writer_wakes = _WakeUp()
        self._spooler_wakes = threading.Condition(self._lock)
        self._spooler_wakes_at = inf
        self._pending: dict[int, _Pending] = {}
        self._numbers = itertools.count()
        self._journals = Journals(spool)
        self._is_failing = False
        self._is_spool_failing = False
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._chore_at = 0.0
        self._is_closed = False
        self._is_writer_done = False
        self._threads: list[threading.Thread] = []

    def submit(self, record: Record, on_recorded: OnRecorded, timeout_seconds: float) -> bool:
        """Accept a record, and call ``on_recorded`` once it is durable, or soon after ``timeout_seconds`` in any case.

        :return: False if the record was not accepted, because this recorder is closed.
        """
        with self._lock:
            if not self._start():
                return False
            now = time.monotonic()
            overdue_at = now if self._is_failing else now + timeout_seconds
            self._pending[next(self._numbers)] = _Pending(record, overdue_at, on_recorded)
            if overdue_at < self._spooler_wakes_at:
                self._spooler_wakes.notify()
        self._writer_wakes.notify()
        return True

    def expect_chore(self, within_seconds: float) -> bool:
        """Schedule the chore within ``within_seconds``.

        :return: False if it was not scheduled, because this recorder is closed.
        """
        with self._lock:
            if not self._start():
                return False
            chore_at = time.monotonic() + within_seconds
            if chore_at < self._chore_at:
                self._chore_at = chore_at
                self._writer_wakes.notify()
            return True

    def backlog(self) -> Backlog:
        """Return what is not in the database yet."""
        with self._lock:
            memory = sum(pending.on_recorded is None for pending in self._pending.values())
            return Backlog(memory, self._journals.own_count, self._is_failing)

    def close(self) -> None:
        """Write all pending records, to the database or else to the spool, and end the threads.

        A thread that is stuck in a system call is abandoned, with its files open.
        """
        with self._lock:
            self._is_closed = True
            self._writer_wakes.notify()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            self._journals.close()

    def abandon(self) -> None:
        """Close what a fork has inherited, without writing: none of it belongs to the child."""
        self._journals.abandon()

    def _start(self) -> bool:
        if not self._threads and not self._is_closed:
            for name, work in (("ledger-writer", self._run_writer), ("ledger-spooler", self._run_spooler)):
                thread = threading.Thread(target=work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        return not self._is_closed

    # The writer.

    def _run_writer(self) -> None:
        try:
            self._journals.require_own()
        except OSError as exc:
            _log.warning("Cannot use the spool: %s", exc)
        while self._is_time_to_write():
            self._write_some()
            self._do_chore()
        with self._lock:
            self._is_writer_done = True
            self._spooler_wakes.notify()

    def _is_time_to_write(self) -> bool:
        """Wait until there is work to do. Return False when the writer must end."""
        while True:
            with self._lock:
                if self._is_closed and (self._is_failing or not self._pending):
                    return False
                has_work = bool(self._pending) or self._journals.has_records
                now = time.monotonic()
                wakes_at = self._retry_at if self._is_failing else self._chore_at
                if now >= wakes_at or (has_work and not self._is_failing):
                    return True
            self._writer_wakes.wait(wakes_at - now)

    def _write_some(self) -> None:
        with self._lock:
            batch = dict(itertools.islice(self._pending.items(), BATCH_SIZE))
        records = [pending.record for pending in batch.values()]
        try:
            spooled = self._journals.read()
            if records or spooled:
                self._store([*records, *spooled])
            self._settle(batch, "database")
            self._journals.finish()
        except Exception as exc:
            self._note_failure(exc)
        else:
            self._note_success()

    def _do_chore(self) -> None:
        with self._lock:
            if self._is_failing or time.monotonic() < self._chore_at:
                return
            # From here on: what is expected while the chore runs may come too late for this run.
            self._chore_at = inf
        has_more = False
        try:
            self._journals.adopt()
            # Journals of dead processes come first: once the chore has deleted old turns, their records in a journal
            # would pass for new ones.
            has_more = self._journals.has_records or self._chore()
        except Exception as exc:
            # It is retried at the next interval; nothing depends on it.
            _log.warning("The ledger's maintenance failed: %s", _reason(exc))
        with self._lock:
            self._chore_at = min(self._chore_at, time.monotonic() + (0.0 if has_more else self._chore_seconds))

    def _note_failure(self, exc: Exception) -> None:
        with self._lock:
            was_failing, self._is_failing = self._is_failing, True
            now = time.monotonic()
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, LAST_RETRY_SECONDS)
            for pending in self._pending.values():
                if pending.on_recorded is not None:
                    pending.overdue_at = now
            self._spooler_wakes.notify()
        if not was_failing:
            unexpected = None if isinstance(exc, StateError) else exc
            _log.warning(_FAILING, _reason(exc), exc_info=unexpected)

    def _note_success(self) -> None:
        with self._lock:
            was_failing, self._is_failing = self._is_failing, False
            self._retry_seconds = FIRST_RETRY_SECONDS
        if was_failing:
            _log.warning("The state database has recovered; writing the spooled records to it.")

    # The spooler.

    def _run_spooler(self) -> None:
        is_last = False
        while not is_last:
            overdue, is_last = self._overdue()
            if overdue:
                self._spool_all(overdue)

    def _overdue(self) -> tuple[dict[int, _Pending], bool]:
        """Wait until records are overdue, and return them, and whether they are the last.

        Once the writer has ended, all records are overdue.
        """
        with self._lock:
            while True:
                now = time.monotonic()
                overdue = {
                    number: pending
                    for number, pending in self._pending.items()
                    if pending.overdue_at <= now or self._is_writer_done
                }
                if overdue or self._is_writer_done:
                    return overdue, self._is_writer_done
                self._spooler_wakes_at = min((pending.overdue_at for pending in self._pending.values()), default=inf)
                self._spooler_wakes.wait(None if self._spooler_wakes_at == inf else self._spooler_wakes_at - now)

    def _spool_all(self, overdue: dict[int, _Pending]) -> None:
        with self._lock:
            # The writer is stuck or has failed: from here on, nothing waits for it.
            was_failing, self._is_failing = self._is_failing, True
        if not was_failing:
            _log.warning(_FAILING, "it did not respond in time")
        try:
            self._journals.require_own().append([pending.record for pending in overdue.values()])
        except OSError as exc:
            self._hold_in_memory(overdue, exc)
        else:
            self._is_spool_failing = False
            self._settle(overdue, "spool")
            with self._lock:
                # Its call may have returned in the meantime, and it may be idle again.
                self._writer_wakes.notify()

    def _hold_in_memory(self, overdue: dict[int, _Pending], exc: OSError) -> None:
        """Keep records in memory that could not be written anywhere, and retry later."""
        if not self._is_spool_failing:
            _log.error("Cannot write to the spool either (%s); keeping records in memory.", exc)
        self._is_spool_failing = True
        with self._lock:
            # The writer may have stored some of them in the meantime, and called back.
            callbacks = [pending.on_recorded for number, pending in overdue.items() if number in self._pending]
            for pending in overdue.values():
                pending.on_recorded = None
                pending.overdue_at = time.monotonic() + MEMORY_RETRY_SECONDS
        _notify(callbacks, "memory")

    def _settle(self, batch: dict[int, _Pending], durability: Durability) -> None:
        """Remove records that are durable now, and call back, unless the other thread has done so."""
        with self._lock:
            settled = [self._pending.pop(number, None) for number in batch]
        _notify([pending.on_recorded for pending in settled if pending is not None], durability)


def _notify(callbacks: Sequence[OnRecorded | None], durability: Durability) -> None:
    for on_recorded in callbacks:
        if on_recorded is None:
            continue
        try:
            on_recorded(durability)
        except Exception:
            # The record is stored all the same, and the other callbacks must be called.
            _log.exception("A callback of the ledger failed")


def _reason(exc: Exception) -> str:
    return (exc.detail if isinstance(exc, StateError) else None) or str(exc)
