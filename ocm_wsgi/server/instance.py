"""Holds the state for one instance of the service, which is all processes of one gunicorn.

A lock on a file in the state folder, which the master holds while it accepts requests. At USR2 both masters hold it:
the new one inherits the descriptor.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ocm_wsgi.errors import StateUnusable

_FILE_NAME = "instance.lock"


class _Held:
    """The descriptor of this master's lock."""

    descriptor: int | None = None


def claim(state_path: Path, *, is_shared: bool, is_successor: bool) -> None:
    """Hold the state, unless another instance does.

    :param is_shared: whether other instances that say so too may use the state at the same time.
    :param is_successor: whether this process was started by USR2, and inherits the lock.
    :raises StateUnusable: another instance uses it.
    """
    path = state_path / _FILE_NAME
    inherited = _inherited(path) if is_successor else None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if inherited is None else inherited
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StateUnusable(
            f"Another instance of the service (process {other}) uses {state_path}: stop it, or set state_path to "
            "another folder."
        ) from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    # Survives the exec at USR2; subprocesses close it.
    os.set_inheritable(descriptor, True)
    _Held.descriptor = descriptor


def release() -> None:
    """Let another instance use the state, or leave it to the master that inherited the lock. May be called twice.

    In a worker, which has inherited it as well, this only means that the worker does not hold it.
    """
    if _Held.descriptor is not None:
        os.close(_Held.descriptor)
        _Held.descriptor = None


def _inherited(path: Path) -> int | None:
    """Return the open descriptor of the lock file, if there is one."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return None
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
        except OSError:  # The descriptor that listed them.
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    return None
