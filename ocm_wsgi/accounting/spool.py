"""Records on disk that wait for the database: one journal a process, append-only, in a folder of its own.

A journal belongs to the process that holds its ``flock``, for as long as that process lives. When it has died, whoever
finds the file may take it over. Knows JSON objects and files, nothing of what is in the records.
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
from ocm_wsgi.storage.files import NewFile, reserve, sync_folder, write_all

logger = logging.getLogger(__name__)

#: Disk space taken in advance, so that some 2,000 records still find room when the file system has filled up.
RESERVE_BYTES = 1 << 20

#: How much is read back at a time. Far more than one line: a record's texts are bounded before they come here.
CHUNK_BYTES = 1 << 16

_SUFFIX = ".journal"
_UNFINISHED_SUFFIX = ".new"

#: No process takes that long between making a file and giving it its name.
_UNFINISHED_SECONDS = 3600


@dataclass(frozen=True)
class Chunk:
    """Some records of a journal.

    :ivar end: where the next chunk begins.
    :ivar is_last: whether nothing followed when it was read.
    """

    records: tuple[Record, ...]
    end: int
    is_last: bool


class Spool:
    """The folder of journals.

    :param path: made (0700) when missing; on a local file system, as ``flock`` is relied upon.
    :param reserve_bytes: see ``RESERVE_BYTES``.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self._reserve_bytes = reserve_bytes

    def create(self) -> Journal:
        """Make a journal that belongs to this process.

        :raises OSError: nothing is left behind but, at worst, an empty temporary file.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self.path / f"{os.getpid()}-{uuid.uuid4().hex}{_SUFFIX}"
        new = NewFile(final, temporary=final.with_suffix(_UNFINISHED_SUFFIX))
        try:
            # Locked before it gets the name by which others find it: unlocked, it would look left behind by the dead.
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
            logger.warning("No disk space could be reserved for records: %s", exc.strerror)

    def adopt(self) -> list[Journal]:
        """Take over the journals whose owners have died. They belong to this process from now on."""
        self._sweep()
        journals = []
        for path in sorted(self.path.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                journal = _adopted(path)
                if journal is not None:
                    journals.append(journal)
        return journals

    def _sweep(self) -> None:
        """Remove what was left by a process that died while it was creating a journal; no record can be in there."""
        for path in self.path.glob(f"*{_UNFINISHED_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _UNFINISHED_SECONDS:
                    path.unlink()


class Journal:
    """One file of records. Appending and reading back may happen in two threads."""

    def __init__(self, path: Path, descriptor: int, *, end: int, is_own: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = end
        self._is_own = is_own
        self._lock = threading.Lock()
        #: Records appended and not yet cleared; for an adopted journal not known, hence 0.
        self.count = 0

    def append(self, records: Iterable[Record]) -> None:
        """Write and sync. When it returns, the records survive ``kill -9`` and, if the disk is honest, power loss.

        :raises OSError: none of the records may be relied upon; what was written of them is overwritten by the next.
        """
        # The line break before each record keeps one that a torn write left behind from swallowing the next.
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
        """Read some records back, beginning at 0 or at the end of the chunk before."""
        with self._lock:
            end = self._end
        data = os.pread(self._descriptor, min(CHUNK_BYTES, end - start), start)
        is_last = start + len(data) >= end or not data
        if not is_last:
            data = data[: data.rfind(b"\n") + 1] or data
        return Chunk(tuple(_records(data, self.path)), start + len(data), is_last)

    def finish(self, end: int) -> bool:
        """Forget what was read up to ``end``; call it when those records are safe elsewhere.

        :return: False when more was appended meanwhile; everything is kept then.
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
        """Give the journal up. It is removed when empty, else left for whoever finds it."""
        with self._lock:
            if self._end == 0:
                self._remove()
            else:
                os.close(self._descriptor)

    def abandon(self) -> None:
        """Close a descriptor that came through a fork: kept open, it would hold the parent's lock beyond its death."""
        os.close(self._descriptor)

    def _clear(self) -> None:
        # Overwritten, not truncated: the space stays reserved, and no old line is left to be read again.
        write_all(self._descriptor, bytes(self._end), 0)
        os.fdatasync(self._descriptor)
        self._end = 0
        self.count = 0

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Journals:
    """The journals of this process: its own, made at the first need, and those it has adopted.

    One thread reads them back: ``read``, then ``finish`` when those records are safe elsewhere, and so on; without
    ``finish`` the same records are read again.
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
        """Records that wait in this process's own journal."""
        return self._own.count if self._own is not None else 0

    @property
    def has_records(self) -> bool:
        """Whether ``read`` has something to give."""
        return bool(self._adopted) or (self._own is not None and not self._own.is_empty)

    def require_own(self) -> Journal:
        """Give this process's own journal.

        :raises OSError: there is none, and none can be made.
        """
        with self._lock:
            if self._own is None:
                self._own = self._spool.create()
            return self._own

    def adopt(self) -> None:
        """Look for journals of the dead."""
        self._adopted += self._spool.adopt()

    def read(self) -> tuple[Record, ...]:
        """Give the next records, none when all have been read."""
        self._chunk = None
        journal = self._adopted[0] if self._adopted else self._own
        if journal is not self._current:
            # Where the other one was left does not matter: reading records twice is harmless.
            self._current, self._position = journal, 0
        if journal is None or (journal is self._own and journal.is_empty):
            return ()
        try:
            self._chunk = journal.read(self._position)
        except OSError as exc:
            logger.error("Cannot read %s (%s); it is left as it is.", journal.path, exc)
            self._drop(journal)
            journal.abandon()
            return ()
        return self._chunk.records

    def finish(self) -> None:
        """Forget the records that were read last."""
        if self._chunk is None or self._current is None:
            return
        self._position = self._chunk.end
        if self._chunk.is_last and self._current.finish(self._position):
            self._position = 0
            if self._current is not self._own:
                self._drop(self._current)

    def close(self) -> None:
        """Give all of them up."""
        for journal in self._all():
            journal.close()
        self._own, self._adopted = None, []

    def abandon(self) -> None:
        """As ``Journal.abandon``, for all of them."""
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


def _adopted(path: Path) -> Journal | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        # Between opening and locking, another finder may have been through with it.
        if status.st_nlink > 0:
            return Journal(path, descriptor, end=status.st_size, is_own=False)
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _records(data: bytes, path: Path) -> Iterable[Record]:
    for line in data.split(b"\n"):
        # Reserved space and cleared lines read as zeros.
        line = line.strip(b"\0")
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        else:
            # Its writer died before the sync, so nobody was told that it is safe.
            logger.warning("Skipped a torn line of %d bytes in %s", len(line), path.name)
