"""The two locks held while a credential is refreshed; Codex 0.169 takes the same ones in the same order."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ocm_wsgi.storage.files import make_private_folder

# FileLock polls, and waiters are not served in order: with its default of 50 ms, waits of 800 ms were measured.
_POLL_SECONDS = 0.02
_CANNOT_CREATE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LocksBusy(Exception):
    """Another program held one of the locks until the timeout."""


@contextmanager
def credential_locks(path: Path, *, state_path: Path, timeout_seconds: float) -> Iterator[None]:
    """Hold ``auth.lock`` in the credential's folder and then ``<file>.lock`` beside the file itself.

    For the second one a symbolic link is followed, as in Codex. If a lock file cannot be created there because the
    folder is not writable, one of the same name in ``state_path`` is used: that excludes other workers, but not Codex.
    Lock files are never removed: unlinking one would let two programs hold it at the same time. The credential file
    may be missing, its folder may not.

    :param timeout_seconds: to wait for each of the two locks.
    :raises LocksBusy: a lock could not be acquired in time.
    :raises OSError: no lock file can be created, or ``flock`` does not work there.
    """
    target = Path(os.path.realpath(path))
    owner = os.stat(target if target.exists() else target.parent)
    with (
        _hold(path.parent / "auth.lock", state_path, owner, timeout_seconds),
        _hold(target.with_name(f"{target.name}.lock"), state_path, owner, timeout_seconds),
    ):
        yield


@contextmanager
def _hold(path: Path, state_path: Path, owner: os.stat_result, timeout_seconds: float) -> Iterator[None]:
    try:
        lock = _acquire(path, timeout_seconds)
    except OSError as exc:
        if exc.errno not in _CANNOT_CREATE:
            raise
        make_private_folder(state_path)
        lock = _acquire(state_path / path.name, timeout_seconds)
    else:
        _give_to_owner(path, owner)
    try:
        yield
    finally:
        lock.release()


def _acquire(path: Path, timeout_seconds: float) -> filelock.BaseFileLock:
    """Create and acquire a lock. One is created for each use: a lock made before a fork cannot be acquired after it."""
    lock = filelock.FileLock(
        path, timeout=timeout_seconds, mode=0o600, poll_interval=_POLL_SECONDS, fallback_to_soft=False
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        raise LocksBusy(f"{path.name} is held by another program") from None
    return lock


def _give_to_owner(path: Path, owner: os.stat_result) -> None:
    """Make a lock file created by root belong to the credential's owner, whose Codex could not open it otherwise."""
    if os.geteuid() == 0 and os.stat(path).st_uid != owner.st_uid:
        os.chown(path, owner.st_uid, owner.st_gid)
