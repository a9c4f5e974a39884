"""Two threads that make records durable: one writes to the database, the other to the spool when that takes too long.

The *writer* commits whatever is waiting in one transaction, so that fifty threads pay for one. The *keeper* sees to
it that nobody waits beyond a deadline: what is overdue, or arrives while the database is known to fail, goes to the
process's journal, and from there to the database when that works again. A record may reach the database both ways;
the store must ignore the second.

Belongs to one process: made anew after a fork. Knows nothing of what the records mean.
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

logger = logging.getLogger(__name__)

#: Where a record is. In ``memory`` it would not survive the process: neither the database nor the disk could take it.
Durability = Literal["database", "spool", "memory"]

#: OnRecorded where a record is, from a thread of the recorder. Must return quickly.
OnRecorded = Callable[[Durability], None]

#: Records in one transaction. Large enough for bursts, small enough to hold others up for milliseconds only.
BATCH_SIZE = 200

#: How long to leave a failing database or disk alone: the first time, and at most.
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 15.0

#: How long to wait between two attempts to spool what only memory holds.
HELD_RETRY_SECONDS = 1.0

#: How long ``close`` waits for each of the threads.
CLOSE_SECONDS = 6.0


_FAILING = "The state database does not take records (%s); until it does, they wait in the spool."


@dataclass(frozen=True)
class Backlog:
    """What is not in the database yet, of this process.

    :ivar memory: records that only this process holds; they die with it.
    :ivar spool: records in this process's journal.
    :ivar is_database_failing: whether the last attempt to write failed or took too long.
    """

    memory: int
    spool: int
    is_database_failing: bool


@dataclass
class _Waiting:
    record: Record
    overdue_at: float
    on_recorded: OnRecorded | None


class Recorder:
    """Makes records durable in the background, from its first ``submit`` to its ``close``.

    :param store: writes records in one transaction and ignores those it already has. Raises ``StateError``.
    :param chore: other work for the writer, done every ``chore_seconds`` and at the start, while no journal waits to
        be read; returns True when there is more of it to do at once.
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
        self._writer_wakes = threading.Condition(self._lock)
        self._keeper_wakes = threading.Condition(self._lock)
        self._keeper_wakes_at = inf
        self._waiting: dict[int, _Waiting] = {}
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
        """Take a record, and tell where it is once it is safe, or soon after ``timeout_seconds`` in any case.

        :return: False when it was not taken, because this recorder is closed.
        """
        with self._lock:
            if not self._start():
                return False
            now = time.monotonic()
            overdue_at = now if self._is_failing else now + timeout_seconds
            self._waiting[next(self._numbers)] = _Waiting(record, overdue_at, on_recorded)
            self._writer_wakes.notify()
            if overdue_at < self._keeper_wakes_at:
                self._keeper_wakes.notify()
            return True

    def expect_chore(self, within_seconds: float) -> bool:
        """Have the chore done soon.

        :return: False when it was not heard, because this recorder is closed.
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
        """Say what waits."""
        with self._lock:
            memory = sum(waiting.on_recorded is None for waiting in self._waiting.values())
            return Backlog(memory, self._journals.own_count, self._is_failing)

    def close(self) -> None:
        """Write what waits, to the database or else to the spool, and end.

        A thread that is stuck in a call to the system is left to it, with its files open.
        """
        with self._lock:
            self._is_closed = True
            self._writer_wakes.notify()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            self._journals.close()

    def abandon(self) -> None:
        """Let go of what a fork has handed down: nothing of it belongs to the child."""
        self._journals.abandon()

    def _start(self) -> bool:
        if not self._threads and not self._is_closed:
            for name, work in (("ledger-writer", self._write), ("ledger-keeper", self._keep)):
                thread = threading.Thread(target=work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        return not self._is_closed

    # The writer.

    def _write(self) -> None:
        try:
            self._journals.require_own()
        except OSError as exc:
            logger.warning("The spool cannot be used: %s", exc)
        while self._is_time_to_write():
            self._write_some()
            self._do_chore()
        with self._lock:
            self._is_writer_done = True
            self._keeper_wakes.notify()

    def _is_time_to_write(self) -> bool:
        """Wait until there is something to do. False ends the writer."""
        with self._lock:
            while True:
                if self._is_closed and (self._is_failing or not self._waiting):
                    return False
                has_work = bool(self._waiting) or self._journals.has_records
                now = time.monotonic()
                wakes_at = self._retry_at if self._is_failing else self._chore_at
                if now >= wakes_at or (has_work and not self._is_failing):
                    return True
                self._writer_wakes.wait(wakes_at - now)

    def _write_some(self) -> None:
        with self._lock:
            batch = dict(itertools.islice(self._waiting.items(), BATCH_SIZE))
        records = [waiting.record for waiting in batch.values()]
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
        if self._is_failing or time.monotonic() < self._chore_at:
            return
        has_more = False
        try:
            self._journals.adopt()
            # First what the dead have left: a chore that forgets old records must not make those look new.
            has_more = self._journals.has_records or self._chore()
        except Exception as exc:
            # It is tried again at the next time; nothing waits for it.
            logger.warning("The ledger's chores were not done: %s", _reason(exc))
        with self._lock:
            self._chore_at = time.monotonic() + (0.0 if has_more else self._chore_seconds)

    def _note_failure(self, exc: Exception) -> None:
        with self._lock:
            was_failing, self._is_failing = self._is_failing, True
            now = time.monotonic()
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, LAST_RETRY_SECONDS)
            for waiting in self._waiting.values():
                if waiting.on_recorded is not None:
                    waiting.overdue_at = now
            self._keeper_wakes.notify()
        if not was_failing:
            unexpected = None if isinstance(exc, StateError) else exc
            logger.warning(_FAILING, _reason(exc), exc_info=unexpected)

    def _note_success(self) -> None:
        with self._lock:
            was_failing, self._is_failing = self._is_failing, False
            self._retry_seconds = FIRST_RETRY_SECONDS
        if was_failing:
            logger.warning("The state database takes records again; what waits is being written to it.")

    # The keeper.

    def _keep(self) -> None:
        is_last = False
        while not is_last:
            overdue, is_last = self._overdue()
            if overdue:
                self._spool_all(overdue)

    def _overdue(self) -> tuple[dict[int, _Waiting], bool]:
        """Wait until records are overdue. When the writer has ended, all are, and they are the last."""
        with self._lock:
            while True:
                now = time.monotonic()
                overdue = {
                    number: waiting
                    for number, waiting in self._waiting.items()
                    if waiting.overdue_at <= now or self._is_writer_done
                }
                if overdue or self._is_writer_done:
                    return overdue, self._is_writer_done
                self._keeper_wakes_at = min((waiting.overdue_at for waiting in self._waiting.values()), default=inf)
                self._keeper_wakes.wait(None if self._keeper_wakes_at == inf else self._keeper_wakes_at - now)

    def _spool_all(self, overdue: dict[int, _Waiting]) -> None:
        with self._lock:
            # The writer is stuck or has failed: from here on nobody needs to wait for it.
            was_failing, self._is_failing = self._is_failing, True
        if not was_failing:
            logger.warning(_FAILING, "it did not answer in time")
        try:
            self._journals.require_own().append([waiting.record for waiting in overdue.values()])
        except OSError as exc:
            self._hold(overdue, exc)
        else:
            self._is_spool_failing = False
            self._settle(overdue, "spool")
            with self._lock:
                # It may have come out of its call in the meantime, and gone to rest.
                self._writer_wakes.notify()

    def _hold(self, overdue: dict[int, _Waiting], exc: OSError) -> None:
        """Keep in memory what nothing can take, and try again later."""
        if not self._is_spool_failing:
            logger.error("The spool does not take records either (%s); they are kept in memory.", exc)
        self._is_spool_failing = True
        with self._lock:
            # The writer may have brought some of them home in the meantime, and told so.
            untold = [waiting.on_recorded for number, waiting in overdue.items() if number in self._waiting]
            for waiting in overdue.values():
                waiting.on_recorded = None
                waiting.overdue_at = time.monotonic() + HELD_RETRY_SECONDS
        _tell(untold, "memory")

    def _settle(self, batch: dict[int, _Waiting], durability: Durability) -> None:
        """Tell those whose record is safe now, unless the other thread has."""
        with self._lock:
            settled = [self._waiting.pop(number, None) for number in batch]
        _tell([waiting.on_recorded for waiting in settled if waiting is not None], durability)


def _tell(listeners: Sequence[OnRecorded | None], durability: Durability) -> None:
    for on_recorded in listeners:
        if on_recorded is None:
            continue
        try:
            on_recorded(durability)
        except Exception:
            # The record is where it is; the others must hear of theirs.
            logger.exception("A listener to the ledger failed")


def _reason(exc: Exception) -> str:
    return (exc.detail if isinstance(exc, StateError) else None) or str(exc)
