"""Replacing the content of ``auth.json`` without ever losing it.

A refresh token can be presented once. Before that is done, the room for its successor is made sure of: the place can
be written and the disk holds enough. Then the new content is put there in one step where the folder allows it
(a new file renamed over the old one), else into the old file.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType

# Longer tokens than before must still fit.
_GROWTH_BYTES = 16 * 1024
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Replacement(ABC):
    """Room for the next content of a file. Use as a context manager; leaving it gives back what was not used."""

    def __init__(self, target: Path) -> None:
        self.target = target

    @abstractmethod
    def commit(self, octets: bytes) -> None:
        """Make ``octets`` the content of the file, on disk when this returns.

        :raises OSError: they could not be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what was reserved. May be called twice."""

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare(target: Path) -> Replacement:
    """Make sure that new content for ``target`` can be written, before there is any.

    :param target: an existing file, no symbolic link: renaming over a link would replace the link.
    :raises OSError: the file cannot be written, or the disk is full. The file is as it was.
    """
    if is_mount_point(target):
        return InPlace(target)
    try:
        return ByRename(target)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InPlace(target)
        raise


def create(target: Path, octets: bytes) -> None:
    """Put a new file there in one step, mode 0600. What root creates belongs to whom the folder belongs to.

    :raises OSError: it could not be written; there is no file then.
    """
    remove_remains(target)
    path = target.with_name(f"{_prefix(target)}{os.urandom(4).hex()}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            _keep_owner(descriptor, os.stat(target.parent))
        _write(descriptor, octets)
        os.replace(path, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(target.parent)


class ByRename(Replacement):
    """A new file beside the old one, of the same mode and owner, that takes its name."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        remove_remains(target)
        status = os.stat(target)
        self._path = target.with_name(f"{_prefix(target)}{os.urandom(4).hex()}")
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _keep_owner(self._descriptor, status)
            os.fchmod(self._descriptor, stat.S_IMODE(status.st_mode))
            _reserve(self._descriptor, status.st_size + _GROWTH_BYTES)
        except BaseException:
            self.close()
            raise

    def commit(self, octets: bytes) -> None:
        _write(self._descriptor, octets)
        try:
            os.replace(self._path, self.target)
        except OSError:
            # Seen on a mount point (EBUSY) and in a sticky folder (EPERM). The token is spent: try the other way.
            _overwrite(self.target, octets)
            return
        self._path = self.target
        _sync_folder(self.target.parent)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if self._path != self.target:
            self._path.unlink(missing_ok=True)


class InPlace(Replacement):
    """The old file itself: a mount point, or in a folder that cannot be written.

    Room is reserved as blanks behind the content, which JSON allows: readers find a whole document at every moment
    but that of the one write.
    """

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        try:
            _fill(self._descriptor, b" " * _GROWTH_BYTES, self._size)
            os.fsync(self._descriptor)
        except BaseException:
            self.close()
            raise

    def commit(self, octets: bytes) -> None:
        self._size = len(octets)
        _write(self._descriptor, octets)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        # Anything else there was written by somebody else since, and is theirs.
        tail = os.pread(self._descriptor, _GROWTH_BYTES + 1, self._size)
        if 0 < len(tail) <= _GROWTH_BYTES and not tail.strip(b" "):
            os.ftruncate(self._descriptor, self._size)
        os.close(self._descriptor)
        self._descriptor = -1


def remove_remains(target: Path) -> None:
    """Remove what writers that were killed left beside ``target``. Call it under the credential's locks."""
    for remains in target.parent.glob(f"{_prefix(target)}*"):
        remains.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    # Codex calls its own `.auth-XXXXXX`; those are not ours to remove.
    return f".auth-ocm.{target.name}."


def _keep_owner(descriptor: int, status: os.stat_result) -> None:
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno not in _CANNOT_RESERVE:
            raise
        _fill(descriptor, b" " * size, 0)
        os.fsync(descriptor)


def _overwrite(target: Path, octets: bytes) -> None:
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        _write(descriptor, octets)
    finally:
        os.close(descriptor)


def _write(descriptor: int, octets: bytes) -> None:
    _fill(descriptor, octets, 0)
    os.ftruncate(descriptor, len(octets))
    os.fsync(descriptor)


def _fill(descriptor: int, octets: bytes, offset: int) -> None:
    """Write all of it. A disk that is nearly full takes a part first, and only then says so."""
    written = 0
    while written < len(octets):
        written += os.pwrite(descriptor, octets[written:], offset + written)


def _sync_folder(folder: Path) -> None:
    """Make the new name last. The content is already safe, so a file system that cannot do this is no failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_mount_point(target: Path) -> bool:
    """Tell whether a file is mounted by itself, as ``docker -v auth.json:…`` does: it cannot be renamed over.

    ``os.path.ismount`` knows only folders. Without ``/proc`` the answer is no, and the rename will tell.
    """
    return _mount_id(target) != _mount_id(target.parent)


def _mount_id(path: Path) -> str | None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return next((line for line in lines if line.startswith("mnt_id:")), None)
