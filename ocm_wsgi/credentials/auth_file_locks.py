"""The two locks that whoever renews a credential holds; Codex 0.169 takes the same ones in the same order."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

# FileLock polls, and waiters are not served in turn: with 50 ms, its default, some were measured to wait 800 ms.
_POLL_SECONDS = 0.02
_CANNOT_STAND = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LocksBusy(Exception):
    """Another program held one of the locks for the whole of the time."""


@contextmanager
def credential_locks(path: Path, *, state_path: Path, timeout_seconds: float) -> Iterator[None]:
    """Hold ``auth.lock`` in the credential's folder and then ``<file>.lock`` beside the file itself.

    A symbolic link is followed for the second, as Codex does. Where a lock cannot stand, because its folder cannot be
    written, one of the same name in ``state_path`` stands for it: that keeps other workers out, though not Codex.
    Lock files stay: to unlink one would let two programs hold it at once. The file itself may be missing, its folder
    may not.

    :param timeout_seconds: wait for each of the two.
    :raises LocksBusy: they were not to be had in time.
    :raises OSError: they cannot stand anywhere, or ``flock`` does not work there.
    """
    target = Path(os.path.realpath(path))
    owner = os.stat(target if target.exists() else target.parent)
    with (
        _held(path.parent / "auth.lock", state_path, owner, timeout_seconds),
        _held(target.with_name(f"{target.name}.lock"), state_path, owner, timeout_seconds),
    ):
        yield


@contextmanager
def _held(place: Path, state_path: Path, owner: os.stat_result, timeout_seconds: float) -> Iterator[None]:
    try:
        lock = _acquired(place, timeout_seconds)
    except OSError as exc:
        if exc.errno not in _CANNOT_STAND:
            raise
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _acquired(state_path / place.name, timeout_seconds)
    else:
        _hand_over(place, owner)
    try:
        yield
    finally:
        lock.release()


def _acquired(place: Path, timeout_seconds: float) -> filelock.BaseFileLock:
    """Build the lock and take it. Built for each use: one that was made before a fork cannot be taken after it."""
    lock = filelock.FileLock(
        place, timeout=timeout_seconds, mode=0o600, poll_interval=_POLL_SECONDS, fallback_to_soft=False
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        raise LocksBusy(f"{place.name} is held by another program") from None
    return lock


def _hand_over(place: Path, owner: os.stat_result) -> None:
    """Give a lock that root made to the credential's owner, whose own Codex could not open it otherwise."""
    if os.geteuid() == 0 and os.stat(place).st_uid != owner.st_uid:
        os.chown(place, owner.st_uid, owner.st_gid)
