"""What a user's turns in progress may use, counted across all workers: limits cannot be exceeded by many at once.

A turn in progress holds the ``flock`` of a file with its reservation, which the kernel releases with its process. Turns
of one user are registered one after the other, under a lock of that user: each sees those that were registered before
it and are not yet recorded. Nothing but file operations happens under that lock.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.admission.concurrency import Slot, folder_of, open_locked, try_to_lock, uncounted
from ocm_wsgi.admission.expectations import UNKNOWN_TURN
from ocm_wsgi.quota.limits import Totals
from ocm_wsgi.storage.files import make_private_folder

# Files that stay when their turns have ended, for the next ones. More of them would make each admission slower.
_SPARE_FILES = 8

_CONTENT = struct.Struct("<dqq")
_LARGEST = 2**62


@dataclass(frozen=True)
class Reservation:
    """A turn in progress.

    :ivar started_at: Unix seconds.
    :ivar expected: what it is expected to use.
    """

    started_at: float
    expected: Totals


class Reservations:
    """The turns in progress of all users with limits.

    :param path: the folder, created (0700) if missing; its file system must support ``flock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, user: str, reservation: Reservation) -> tuple[Slot, list[Reservation]]:
        """Register a turn, and return its slot, and the user's turns that were in progress already.

        Blocks only while another turn of the same user does the same.

        :raises StateError: the folder cannot be used.
        """
        folder = folder_of(self._path, user)
        try:
            with _locked(folder):
                descriptor, others = _scan(folder)
                # Without space on the disk the turn still counts, with what was reserved here before.
                with suppress(OSError):
                    os.pwrite(descriptor, _packed(reservation), 0)
        except OSError as exc:
            raise uncounted(exc) from exc
        return Slot(descriptor), others


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        make_private_folder(folder)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _scan(folder: Path) -> tuple[int, list[Reservation]]:
    """Return the descriptor of a file that is locked now, and the reservations in those that others have locked."""
    others: list[Reservation] = []
    free: list[int] = []
    names = {entry.name for entry in os.scandir(folder) if entry.name != "lock"}
    try:
        for name in names:
            descriptor = os.open(folder / name, os.O_RDWR)
            if not try_to_lock(descriptor):
                others.append(_read(descriptor))
            elif len(free) <= _SPARE_FILES:
                free.append(descriptor)
            else:
                os.unlink(folder / name)
                os.close(descriptor)
        if not free:
            free.append(_new(folder, names))
        return free.pop(0), others
    finally:
        for descriptor in free:
            os.close(descriptor)


def _new(folder: Path, names: set[str]) -> int:
    """Create a file whose name is not one of ``names``, and return its descriptor, locked."""
    number = next(number for number in range(len(names) + 1) if str(number) not in names)
    descriptor = open_locked(folder / str(number))
    assert descriptor is not None, "nobody else creates files here while we hold the lock"
    return descriptor


def _read(descriptor: int) -> Reservation:
    """Return the reservation in a file of another turn, and close it."""
    try:
        content = os.pread(descriptor, _CONTENT.size, 0)
    finally:
        os.close(descriptor)
    if len(content) != _CONTENT.size:
        return Reservation(math.inf, UNKNOWN_TURN)
    started_at, tokens, cost_micro_usd = _CONTENT.unpack(content)
    return Reservation(started_at, Totals(1, tokens, cost_micro_usd))


def _packed(reservation: Reservation) -> bytes:
    expected = reservation.expected
    return _CONTENT.pack(reservation.started_at, min(expected.tokens, _LARGEST), min(expected.cost_micro_usd, _LARGEST))
