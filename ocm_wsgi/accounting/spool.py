"""A spool on disk for records that cannot be written to the database yet: one append-only journal per process.

A journal belongs to the process that holds its ``flock``, as long as that process lives. After its death, any process
that finds the file may adopt it. The spool stores JSON objects and does not interpret them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.accounting.turn_record import Record
from ocm_wsgi.storage.files import NewFile, make_private_folder, reserve, sync_folder, write_all

_log = logging.getLogger(__name__)

#: Disk space reserved in advance, so that some 2,000 records still fit when the file system is full.
RESERVE_BYTES = 1 << 20

#: How much is read back at a time. Far more than one line: the texts of a record are bounded by ``turn_record``.
CHUNK_BYTES = 1 << 16

_SUFFIX = ".journal"
_UNFINISHED_SUFFIX = ".new"

# No process takes this long, in seconds, between creating a file and renaming it.
_UNFINISHED_SECONDS = 3600


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of a journal.

    :ivar end: the offset of the next chunk.
    :ivar is_last: whether this was the end of the journal when it was read.
    """

    records: tuple[Record, ...]
    end: int
    is_last: bool


class Spool:
    """The folder of journals.

    :param path: created (0700) if missing; must be on a local file system, because it relies on ``flock``.
    :param reserve_bytes: see ``RESERVE_BYTES``.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self._reserve_bytes = reserve_bytes

    def create(self) -> Journal:
        """Create a journal that belongs to this process.

        :raises OSError: that failed; at worst, an empty temporary file is left behind.
        """
        make_private_folder(self.path)
        final = self.path / f"{os.getpid()}-{uuid.uuid4().hex}{_SUFFIX}"
        new = NewFile(final, temporary=final.with_suffix(_UNFINISHED_SUFFIX))
        try:
            # Locked before it gets the name by which others find it: unlocked, it would look like a dead process's.
            fcntl.flock(new.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._reserve(new.descriptor)
            new.replace()
            sync_folder(self.path)
        except BaseException:
            new.close()
            raise
        return Journal(final, new.descriptor, end=0, is_own=True)

    def _reserve(self, descriptor: int) -> None:
        try:
            reserve(descriptor, self._reserve_bytes)
        except OSError as exc:
            os.ftruncate(descriptor, 0)
            _log.warning("Cannot reserve disk space for records: %s", exc.strerror)

    def adopt(self) -> list[Journal]:
        """Adopt the journals whose owners have died, and return them. They belong to this process from now on."""
        self._sweep()
        journals = []
        for path in sorted(self.path.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                journal = _try_to_adopt(path)
                if journal is not None:
                    journals.append(journal)
        return journals

    def _sweep(self) -> None:
        """Remove files of processes that died while creating a journal. They cannot contain records."""
        for path in self.path.glob(f"*{_UNFINISHED_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _UNFINISHED_SECONDS:
                    path.unlink()


class Journal:
    """One file of records. One thread may append while another reads back."""

    def __init__(self, path: Path, descriptor: int, *, end: int, is_own: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = end
        self._is_own = is_own
        self._lock = threading.Lock()
        #: Records appended and not yet cleared. Unknown for an adopted journal, and then 0.
        self.count = 0

    def append(self, records: Iterable[Record]) -> None:
        """Write and sync records. Afterwards, they survive ``kill -9`` and, if the disk is honest, power loss.

        :raises OSError: none of the records may be relied upon; the next append overwrites what was written of them.
        """
        # The line break before each record keeps the rest of a torn write from merging with the next record.
        lines = [b"\n%s\n" % json.dumps(record, separators=(",", ":")).encode() for record in records]
        with self._lock:
            end = write_all(self._descriptor, b"".join(lines), self._end)
            os.fdatasync(self._descriptor)
            self._end = end
            self.count += len(lines)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read back."""
        return self._end == 0

    def read(self, start: int) -> Chunk:
        """Return a chunk of records, beginning at offset 0 or at the end of the previous chunk."""
        with self._lock:
            end = self._end
        data = os.pread(self._descriptor, min(CHUNK_BYTES, end - start), start)
        is_last = start + len(data) >= end or not data
        if not is_last:
            data = data[: data.rfind(b"\n") + 1] or data
        return Chunk(tuple(_records(data, self.path)), start + len(data), is_last)

    def finish(self, end: int) -> bool:
        """Discard the records up to ``end``. To be called once they are stored elsewhere.

        :return: False if more was appended in the meantime; then everything is kept.
        """
        with self._lock:
            if self._end != end:
                return False
            if self._is_own:
                self._clear()
            else:
                self._remove()
            return True

    def close(self) -> None:
        """Give up the journal. It is removed if empty, and otherwise left for another process to adopt."""
        with self._lock:
            if self._end == 0:
                self._remove()
            else:
                os.close(self._descriptor)

    def abandon(self) -> None:
        """Close a descriptor inherited through a fork: it would hold the parent's lock beyond its death."""
        os.close(self._descriptor)

    def _clear(self) -> None:
        # Overwritten, not truncated: the space stays reserved, and no old line can be read again.
        write_all(self._descriptor, bytes(self._end), 0)
        os.fdatasync(self._descriptor)
        self._end = 0
        self.count = 0

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Journals:
    """The journals of this process: its own, created on demand, and those it has adopted.

    One thread reads them back: it calls ``read``, then ``finish`` once those records are stored elsewhere, and so on.
    Without ``finish``, the same records are read again.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._own: Journal | None = None
        self._adopted: list[Journal] = []
        self._current: Journal | None = None
        self._position = 0
        self._chunk: Chunk | None = None

    @property
    def own_count(self) -> int:
        """The number of records in this process's own journal."""
        return self._own.count if self._own is not None else 0

    @property
    def has_records(self) -> bool:
        """Whether there are records to read back."""
        return bool(self._adopted) or (self._own is not None and not self._own.is_empty)

    def require_own(self) -> Journal:
        """Return this process's own journal, and create it first if necessary.

        :raises OSError: it cannot be created.
        """
        with self._lock:
            if self._own is None:
                self._own = self._spool.create()
            return self._own

    def adopt(self) -> None:
        """Adopt journals of dead processes."""
        self._adopted += self._spool.adopt()

    def read(self) -> tuple[Record, ...]:
        """Return the next records, or none if all have been read."""
        self._chunk = None
        journal = self._adopted[0] if self._adopted else self._own
        if journal is not self._current:
            # The position in the previous one does not matter: reading records twice is harmless.
            self._current, self._position = journal, 0
        if journal is None or (journal is self._own and journal.is_empty):
            return ()
        try:
            self._chunk = journal.read(self._position)
        except OSError as exc:
            _log.error("Cannot read %s (%s); leaving it unchanged.", journal.path, exc)
            self._drop(journal)
            journal.abandon()
            return ()
        return self._chunk.records

    def finish(self) -> None:
        """Discard the records that were read last."""
        if self._chunk is None or self._current is None:
            return
        self._position = self._chunk.end
        if self._chunk.is_last and self._current.finish(self._position):
            self._position = 0
            if self._current is not self._own:
                self._drop(self._current)

    def close(self) -> None:
        """Give up all journals, as ``Journal.close`` does."""
        for journal in self._all():
            journal.close()
        self._own, self._adopted = None, []

    def abandon(self) -> None:
        """Close the descriptors of all journals, as ``Journal.abandon`` does."""
        for journal in self._all():
            journal.abandon()
        self._own, self._adopted = None, []

    def _all(self) -> list[Journal]:
        return [journal for journal in (self._own, *self._adopted) if journal is not None]

    def _drop(self, journal: Journal) -> None:
        if journal is self._own:
            self._own = None
        else:
            self._adopted.remove(journal)


def waiting_records(path: Path) -> list[Record]:
    """Return the records in all journals of a folder, whichever process owns them. Changes nothing.

    Records that are being written to the database meanwhile may be missing: they are in the database afterwards.

    :raises OSError: a journal cannot be read.
    """
    records: list[Record] = []
    for journal in sorted(path.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            records.extend(
                record for line in journal.read_bytes().split(b"\n") if (record := _parsed(line)) is not None
            )
    return records


def _try_to_adopt(path: Path) -> Journal | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        # Another process may have finished and removed it between opening and locking.
        if status.st_nlink > 0:
            return Journal(path, descriptor, end=status.st_size, is_own=False)
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _records(data: bytes, path: Path) -> Iterable[Record]:
    for line in data.split(b"\n"):
        if not line.strip(b"\0"):
            continue
        record = _parsed(line)
        if record is not None:
            yield record
        else:
            # Its writer died before the sync, so the record was never reported as durable.
            _log.warning("Skipped a torn line of %d bytes in %s", len(line), path.name)


def _parsed(line: bytes) -> Record | None:
    """Return the record of a line, or ``None`` if it is torn or empty."""
    try:
        # Reserved space and cleared lines read as zeros.
        record = json.loads(line.strip(b"\0"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
