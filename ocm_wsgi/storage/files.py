"""Atomic replacement of files, complete writes, reserved space, and folders that are private or synced.

Independent of what the files contain.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
# The permissions of folders with our state: for the owner only.
_PRIVATE = 0o700


class NewFile:
    """A file under a temporary name that takes its final name in one step. Use as a context manager.

    Leaving the context closes the descriptor, and removes the file unless it got its final name.

    :param target: the final name. A symbolic link would itself be replaced; resolve it first if that is not wanted.
    :param temporary: the temporary name, in the same folder.
    :param mode: the permissions to create the file with, subject to the umask.
    :param is_exclusive: whether an existing file of the temporary name is an error. Otherwise it is overwritten: right
        for a fixed temporary name, which a killed process may have left behind.
    :raises OSError: the file cannot be created.
    """

    def __init__(self, target: Path, *, temporary: Path, mode: int = 0o600, is_exclusive: bool = True) -> None:
        self._target = target
        self._path = temporary
        creation = os.O_EXCL if is_exclusive else os.O_TRUNC
        #: Open for reading and writing; ``-1`` once closed. Outside a context manager it is the caller's to close.
        self.descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | creation, mode)

    def write(self, content: bytes, *, sync: bool = True) -> None:
        """Make ``content`` the whole content.

        :param sync: whether to wait until it is on disk.
        :raises OSError: it could not be written.
        """
        overwrite(self.descriptor, content, sync=sync)

    def replace(self) -> None:
        """Give the file its final name, in place of any file that has it.

        :raises OSError: that failed; the old file is unchanged. ``EBUSY``: the old one is a mount point.
        """
        os.replace(self._path, self._target)
        self._path = self._target

    def link(self) -> None:
        """Give the file its final name unless there is such a file already.

        :raises FileExistsError: there is one; it is unchanged.
        """
        os.link(self._path, self._target)

    def close(self) -> None:
        """Close the descriptor and remove the temporary name. May be called twice."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        if self._path != self._target:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def replace_file(target: Path, content: bytes, *, temporary: Path, mode: int = 0o600, sync: bool = True) -> None:
    """Replace a file, or create it, in one step: readers find the old content or the new one, whole.

    :param temporary: a name in the same folder; an existing file of that name is overwritten.
    :param mode: the permissions of the new file, subject to the umask.
    :param sync: whether the content must be on disk before it takes the place of the old one, so that a power failure
        leaves one of the two. The folder is not synced; see :func:`sync_folder`.
    :raises OSError: that failed; the old file is unchanged and the temporary one removed.
    """
    with NewFile(target, temporary=temporary, mode=mode, is_exclusive=False) as new:
        new.write(content, sync=sync)
        new.replace()


def write_all(descriptor: int, data: bytes, offset: int) -> int:
    """Write all of ``data``, beginning at ``offset``. A nearly full disk takes a part first and fails only then.

    :return: the offset after the last byte written.
    :raises OSError: a part may have been written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
    return offset


def overwrite(descriptor: int, content: bytes, *, sync: bool = True) -> None:
    """Make ``content`` the whole content of an open file, whatever it held before.

    :raises OSError: the file may hold a part of ``content``, and a rest of what it held.
    """
    write_all(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
    if sync:
        os.fsync(descriptor)


def reserve(descriptor: int, size: int, *, filler: bytes = b"") -> None:
    """Reserve disk space for the first ``size`` bytes of a file.

    :param filler: one byte to fill the file with on a file system that cannot reserve space. Without it, that is an
        error like any other.
    :raises OSError: the space could not be reserved, for instance because the disk is full.
    """
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if not filler or exc.errno not in _CANNOT_RESERVE:
            raise
        write_all(descriptor, filler * size, 0)
        os.fsync(descriptor)


def make_private_folder(folder: Path) -> None:
    """Create a folder and the missing ones above it, all accessible to their owner only, whatever the umask.

    Existing folders are left as they are. ``Path.mkdir`` would give its mode to the last folder alone.

    :raises OSError: that failed; folders above it may have been created.
    """
    try:
        folder.mkdir(mode=_PRIVATE)
    except FileNotFoundError:
        if folder.parent.exists():  # A file system such as /proc, which has no other folders.
            raise
        make_private_folder(folder.parent)
        make_private_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        # A umask may also take permissions from the owner.
        if folder.stat().st_mode & _PRIVATE != _PRIVATE:
            folder.chmod(_PRIVATE)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure.

    :raises OSError: the file system cannot do that, or the folder cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_owner(descriptor: int, status: os.stat_result) -> None:
    """Give an open file the owner and group of ``status``, if it has others.

    :raises OSError: the process may not do that.
    """
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)
