"""Exports the ledger's sums to the usage file, in sing-box's format. One of the workers writes it.

An existing file, of sing-box or of an earlier installation, is imported once as the opening balance, and our own sums
are added to it. The ledger itself does not contain the opening balance.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import filelock
import sqlalchemy as sa

from ocm_wsgi.accounting import queries, sing_box_usages
from ocm_wsgi.accounting.sing_box_usages import Combination, Entry, Statistics
from ocm_wsgi.errors import StateError
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.files import NewFile
from ocm_wsgi.storage.per_process import PerProcess

_log = logging.getLogger(__name__)

#: The file is at most this old while there are turns, in seconds.
INTERVAL_SECONDS = 60.0

#: How long a process that ends waits for another one that is writing the file, in seconds.
CLOSE_SECONDS = 5.0

# Keys of the table ``meta``, followed by the account if the file is of one of several.
_OPENING_BALANCE = "opening_balance"
_WRITTEN = "usage_file"


class UsagesExport:
    """Keeps the usage file up to date. Safe to create before a fork.

    :param path: ``usages_path``; a symbolic link is followed.
    :param credential: the tag of the account whose turns are exported; ``None`` for all turns, whatever account they
        used: those of a service with one account only.
    :param clock: returns Unix seconds.
    :param interval_seconds: see ``INTERVAL_SECONDS``.
    """

    def __init__(
        self,
        path: Path,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        credential: str | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self.path = path
        self._database = database
        self._clock = clock
        self._credential = credential
        suffix = "" if credential is None else f":{credential}"
        self._written_key, self._opening_key = _WRITTEN + suffix, _OPENING_BALANCE + suffix
        self._updaters = PerProcess(lambda: _Updater(self.update, interval_seconds))

    def start(self) -> None:
        """Start the thread of this process that updates the file. Does nothing if it is running already."""
        self._updaters.get().start()

    def close(self) -> None:
        """End the thread, and write the file if the sums have changed."""
        updater = self._updaters.pop()
        if updater is not None:
            updater.close()
        self.update(timeout_seconds=CLOSE_SECONDS)

    def update(self, *, timeout_seconds: float = 0.0) -> bool:
        """Write the file if the sums have changed, unless another process is writing it. Never raises.

        :return: whether it was written.
        """
        try:
            return self.write(only_changes=True, timeout_seconds=timeout_seconds)
        except filelock.Timeout:
            return False
        except (StateError, OSError) as exc:
            reason = (exc.detail if isinstance(exc, StateError) else None) or str(exc)
            _log.warning("Cannot write the usage file %s: %s", self.path, reason)
            return False

    def write(self, *, only_changes: bool = False, timeout_seconds: float = CLOSE_SECONDS) -> bool:
        """Write the file.

        :param only_changes: do nothing if the sums have not changed since the file was written.
        :return: whether the file was written.
        :raises StateError: the database cannot be used. The file is unchanged.
        :raises OSError: the file cannot be written, or (``filelock.Timeout``) another process is writing it.
        """
        target = Path(os.path.realpath(self.path))
        with filelock.FileLock(f"{target}.lock", mode=0o600, fallback_to_soft=False).acquire(timeout_seconds):
            opening = self._opening_balance(target)
            with self._database.read() as connection:
                written = json.dumps([str(target), queries.sums_revision(connection)])
                if only_changes and db.get_meta(connection, self._written_key) == written and target.exists():
                    return False
                entries = sing_box_usages.merged([*opening, *_entries(connection, self._credential)])
            updated_at = datetime.fromtimestamp(self._clock()).astimezone()
            _replace(target, sing_box_usages.render(entries, updated_at).encode())
            with self._database.write() as connection:
                db.set_meta(connection, self._written_key, written)
            return True

    def _opening_balance(self, target: Path) -> list[Entry]:
        """Return the opening balance. The first time, it is imported from the existing file."""
        with self._database.read() as connection:
            known = db.get_meta(connection, self._opening_key)
            written = db.get_meta(connection, self._written_key)
        if known is None:
            known = self._import(target)
        elif written is not None and json.loads(written)[0] != str(target) and target.exists():
            # usages_path was changed to the path of a file that we did not write and cannot import a second time.
            _set_aside(target, "it existed before usages_path named it, and an opening balance was imported already")
        return _loaded(known)

    def _import(self, target: Path) -> str:
        try:
            entries = sing_box_usages.parse(target.read_bytes())
            _log.info("Importing the usage file %s: %d combinations", target, len(entries))
        except FileNotFoundError:
            entries = []
        except (ValueError, RecursionError) as exc:
            _set_aside(target, f"it is not a usage file ({exc})")
            entries = []
        with self._database.write() as connection:
            # Another machine with the same database may have been faster.
            known = db.get_meta(connection, self._opening_key)
            if known is None:
                known = _dumped(entries)
                db.set_meta(connection, self._opening_key, known)
        return known


def expect_changes(connection: sa.Connection) -> None:
    """Have the usage file written again: the database was restored, and the file may be newer than its sums."""
    written = db.get_meta(connection, _WRITTEN)
    if written is not None:
        db.set_meta(connection, _WRITTEN, json.dumps([json.loads(written)[0], None]))


class _Updater:
    """The thread of one process that updates the file."""

    def __init__(self, update: Callable[[], bool], interval_seconds: float) -> None:
        self._update = update
        self._interval_seconds = interval_seconds
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage-file", daemon=True)

    def start(self) -> None:
        if self._thread.ident is None:
            with contextlib.suppress(RuntimeError):  # another thread of this process was faster
                self._thread.start()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        self._update()
        while not self._ends.wait(self._interval_seconds):
            self._update()


def _entries(connection: sa.Connection, credential: str | None) -> Iterator[Entry]:
    table = db.turn_hour.c
    key = (table.week_start, table.model, table.service_tier, table.context_window, table.user)
    counted = (
        table.turns - table.turns_without_usage,
        table.input_tokens,
        table.output_tokens,
        table.cached_tokens,
        table.cost_micro_usd,
    )
    # As in sing-box, a turn counts only if its model and its usage are known.
    query = (
        sa.select(*key, *(sa.func.sum(column) for column in counted))
        .where(table.model != "")
        .group_by(*key)
        .having(sa.func.sum(counted[0]) > 0)
        .order_by(*key)
    )
    if credential is not None:
        query = query.where(table.credential == credential)
    for week_start, model, service_tier, context_window, user, *sums in connection.execute(query):
        statistics = Statistics(*map(int, sums))
        combination = sing_box_usages.combination(model, service_tier, context_window, week_start)
        yield Entry(combination, statistics, {user: statistics} if user else {})


def _dumped(entries: list[Entry]) -> str:
    return json.dumps([asdict(entry) for entry in entries])


def _loaded(text: str) -> list[Entry]:
    return [
        Entry(
            Combination(**each["combination"]),
            Statistics(**each["total"]),
            {name: Statistics(**statistics) for name, statistics in each["by_user"].items()},
        )
        for each in json.loads(text)
    ]


def _set_aside(path: Path, reason: str) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.kept-{number}")).exists():
        number += 1
    path.rename(aside)
    _log.error("The usage file %s was moved to %s: %s.", path, aside.name, reason)


def _replace(path: Path, content: bytes) -> None:
    """Replace the file atomically, with the permissions of the old one, or else those that sing-box would use."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with NewFile(path, temporary=temporary, mode=0o666, is_exclusive=False) as new:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(new.descriptor, stat.S_IMODE(path.stat().st_mode))
            new.write(content)
            new.replace()
    except OSError as exc:
        # A single file that is a mount point (docker -v) cannot be replaced, only written to.
        if exc.errno != errno.EBUSY:
            raise
        path.write_bytes(content)
