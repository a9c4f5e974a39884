"""Replacing the content of ``auth.json`` without ever losing it.

A refresh token can be used once. Before it is, a :class:`Replacement` makes sure that its successor can be stored: the
file is writable and the disk has enough space. The new content is then written to a new file that is renamed over the
old one or, if the folder does not allow that, into the old file.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ocm_wsgi.storage.files import NewFile, copy_owner, overwrite, reserve, sync_folder, write_all

# New tokens may be longer than the old ones.
_GROWTH_BYTES = 16 * 1024


class Replacement(ABC):
    """Reserved space for the next content of a file. Use as a context manager, which releases unused space."""

    def __init__(self, target: Path) -> None:
        self.target = target

    @abstractmethod
    def commit(self, content: bytes) -> None:
        """Replace the content of the file. It is on disk when this returns.

        :raises OSError: it could not be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what was reserved. May be called twice."""

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare(target: Path) -> Replacement:
    """Make sure that new content for ``target`` can be written, before there is any.

    :param target: an existing file, not a symbolic link, which a rename would replace.
    :raises OSError: the file cannot be written, or the disk is full. The file is unchanged.
    """
    if is_mount_point(target):
        return InPlace(target)
    try:
        return ByRename(target)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InPlace(target)
        raise


def create(target: Path, content: bytes) -> None:
    """Create a file in one step, with mode 0600. Root creates it for the owner of the folder.

    :raises OSError: it could not be written; there is no file then.
    """
    remove_leftovers(target)
    with NewFile(target, temporary=_temporary(target)) as new:
        if os.geteuid() == 0:
            copy_owner(new.descriptor, os.stat(target.parent))
        new.write(content)
        new.replace()
    _sync_name(target)


class ByRename(Replacement):
    """A new file beside the old one, with the same mode and owner, that is renamed over it."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        remove_leftovers(target)
        status = os.stat(target)
        self._new = NewFile(target, temporary=_temporary(target))
        try:
            copy_owner(self._new.descriptor, status)
            os.fchmod(self._new.descriptor, stat.S_IMODE(status.st_mode))
            reserve(self._new.descriptor, status.st_size + _GROWTH_BYTES, filler=b" ")
        except BaseException:
            self.close()
            raise

    def commit(self, content: bytes) -> None:
        self._new.write(content)
        try:
            self._new.replace()
        except OSError:
            # Seen on a mount point (EBUSY) and in a sticky folder (EPERM). The token is used up: write in place.
            _overwrite(self.target, content)
            return
        _sync_name(self.target)

    def close(self) -> None:
        self._new.close()


class InPlace(Replacement):
    """The old file itself, if it is a mount point or its folder is not writable.

    Space is reserved as blanks after the content, which JSON allows: readers find a whole document at any time except
    during the one write.
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

    def commit(self, content: bytes) -> None:
        self._size = len(content)
        overwrite(self._descriptor, content)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        # Anything else was written by another program in the meantime, and stays.
        tail = os.pread(self._descriptor, _GROWTH_BYTES + 1, self._size)
        if 0 < len(tail) <= _GROWTH_BYTES and not tail.strip(b" "):
            os.ftruncate(self._descriptor, self._size)
        os.close(self._descriptor)
        self._descriptor = -1


def remove_leftovers(target: Path) -> None:
    """Remove temporary files left beside ``target`` by killed writers. Call it while holding the credential's locks."""
    for leftover in target.parent.glob(f"{_prefix(target)}*"):
        leftover.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    # Codex names its own `.auth-XXXXXX`; those are not ours to remove.
    return f".auth-ocm.{target.name}."


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_prefix(target)}{os.urandom(4).hex()}")


def _overwrite(target: Path, content: bytes) -> None:
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        overwrite(descriptor, content)
    finally:
        os.close(descriptor)


def _sync_name(target: Path) -> None:
    # The content is already safe, so a file system that cannot sync a folder is no failure.
    with suppress(OSError):
        sync_folder(target.parent)


def is_mount_point(target: Path) -> bool:
    """Return whether a single file is mounted, as by ``docker -v auth.json:…``: it cannot be replaced by a rename.

    ``os.path.ismount`` only supports folders. Without ``/proc`` this returns ``False``, and the rename fails.
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
