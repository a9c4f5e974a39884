"""Counting a user's turns under way across all workers, with locks that the kernel frees when a process dies.

A slot is an empty file; who holds its ``flock`` has the slot. Files stay, so that two processes always mean the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ocm_wsgi.errors import StateError


class Slot:
    """One turn under way. Ends with ``release``, or with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Make room for another turn. Doing it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Slots:
    """The slots of all users.

    :param path: folder, made (0700) when missing; on a file system that has ``flock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, user: str, count: int) -> Slot | None:
        """Take a free one of a user's ``count`` slots; ``None`` when all are taken. Does not wait.

        :raises StateError: the folder cannot be used.
        """
        # Names may hold anything, and a path may not.
        folder = self._path / hashlib.sha256(user.encode()).hexdigest()[:32]
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in range(count):
                descriptor = _locked(folder / str(number))
                if descriptor is not None:
                    return Slot(descriptor)
        except OSError as exc:
            raise StateError("Your turns cannot be counted at the moment; try again.", detail=str(exc)) from exc
        return None


def _locked(path: Path) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as exc:
        os.close(descriptor)
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return descriptor
