"""Limits a user's concurrent turns across all workers, with locks that the kernel releases when a process dies.

A slot is an empty file, taken by holding its ``flock``. Files are never removed, so that all processes
lock the same one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ocm_wsgi.errors import StateError
from ocm_wsgi.storage.files import make_private_folder


class Slot:
    """A slot that a turn has taken, until ``release`` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Make room for another turn. Calling this again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Slots:
    """The slots of all users.

    :param path: the folder, created (0700) if missing; its file system must support ``flock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, user: str, count: int) -> Slot | None:
        """Take a free one of a user's ``count`` slots, and return it; ``None`` if all are taken. Does not block.

        :raises StateError: the folder cannot be used.
        """
        # A name may contain characters that a path may not.
        folder = self._path / hashlib.sha256(user.encode()).hexdigest()[:32]
        try:
            make_private_folder(folder)
            for number in range(count):
                descriptor = _try_to_lock(folder / str(number))
                if descriptor is not None:
                    return Slot(descriptor)
        except OSError as exc:
            raise StateError(
                "Your concurrent turns cannot be counted at the moment; try again.", detail=str(exc)
            ) from exc
        return None


def _try_to_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as exc:
        os.close(descriptor)
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return descriptor
