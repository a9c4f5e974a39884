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

from ocm_wsgi.storage.files import NewFile, copy_owner, reserve, sync_folder, write_all, write_whole

# Longer tokens than before must still fit.
_GROWTH_BYTES = 16 * 1024


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
    with NewFile(target, temporary=_temporary(target)) as new:
        if os.geteuid() == 0:
            copy_owner(new.descriptor, os.stat(target.parent))
        new.write(octets)
        new.replace()
    _sync_name(target)


class ByRename(Replacement):
    """A new file beside the old one, of the same mode and owner, that takes its name."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        remove_remains(target)
        status = os.stat(target)
        self._new = NewFile(target, temporary=_temporary(target))
        try:
            copy_owner(self._new.descriptor, status)
            os.fchmod(self._new.descriptor, stat.S_IMODE(status.st_mode))
            reserve(self._new.descriptor, status.st_size + _GROWTH_BYTES, filler=b" ")
        except BaseException:
            self.close()
            raise

    def commit(self, octets: bytes) -> None:
        self._new.write(octets)
        try:
            self._new.replace()
        except OSError:
            # Seen on a mount point (EBUSY) and in a sticky folder (EPERM). The token is spent: try the other way.
            _overwrite(self.target, octets)
            return
        _sync_name(self.target)

    def close(self) -> None:
        self._new.close()


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
            write_all(self._descriptor, b" " * _GROWTH_BYTES, self._size)
            os.fsync(self._descriptor)
        except BaseException:
            self.close()
            raise

    def commit(self, octets: bytes) -> None:
        self._size = len(octets)
        write_whole(self._descriptor, octets)

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


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_prefix(target)}{os.urandom(4).hex()}")


def _overwrite(target: Path, octets: bytes) -> None:
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        write_whole(descriptor, octets)
    finally:
        os.close(descriptor)


def _sync_name(target: Path) -> None:
    # The content is already safe, so a file system that cannot sync a folder is no failure.
    with suppress(OSError):
        sync_folder(target.parent)


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
