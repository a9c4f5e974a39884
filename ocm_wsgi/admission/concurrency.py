"""Limits a user's concurrent turns across all workers, with locks that the kernel releases when a process dies.

A slot is a file, taken by holding its ``flock``. Those of a number of concurrent turns are empty and never removed, so
that all processes lock the same ones; ``reservations`` has slots with a content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ocm_wsgi.errors import StateError
from ocm_wsgi.storage.files import make_private_folder


class Slot:
    """A slot that a turn has taken, until ``release`` or the end of the process.

    :param descriptor: of the locked file; the slot closes it.
    """

    def __init__(self, descriptor: int) -> None:
        # A list, because the event loop and the recorder may release a slot at the same time: two threads cannot pop
        # the same item, and a descriptor that is closed twice may be that of another file by then.
        self._descriptors = [descriptor]

    def release(self) -> None:
        """Make room for another turn. Calling this again does nothing. Thread-safe."""
        try:
            descriptor = self._descriptors.pop()
        except IndexError:
            return
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
        folder = folder_of(self._path, user)
        try:
            make_private_folder(folder)
            for number in range(count):
                descriptor = open_locked(folder / str(number))
                if descriptor is not None:
                    return Slot(descriptor)
        except OSError as exc:
            raise uncounted(exc) from exc
        return None


def folder_of(path: Path, user: str) -> Path:
    """Return a user's own folder. A name may contain characters that a path may not."""
    return path / hashlib.sha256(user.encode()).hexdigest()[:32]


def open_locked(path: Path) -> int | None:
    """Lock a file, created (0600) if missing, and return its descriptor; ``None`` if another turn has locked it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    if try_to_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def try_to_lock(descriptor: int) -> bool:
    """Lock an open file, and return whether that succeeded; it fails if another turn has locked it.

    :raises OSError: the file cannot be locked. It is closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except BaseException:
        os.close(descriptor)
        raise
    return True


def uncounted(cause: OSError) -> StateError:
    """Return the error for turns that cannot be counted."""
    return StateError("Your concurrent turns cannot be counted at the moment; try again.", detail=str(cause))
