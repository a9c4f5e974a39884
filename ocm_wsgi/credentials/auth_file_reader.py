"""Reading ``auth.json`` while other programs write it.

Codex before 0.169 truncates the file and then fills it, so a reader can meet nothing or a half; measured, for up to
40 ms. Later versions replace it, so that each version is a new inode.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.credentials.auth_file import Document, MalformedDocument, decode

# How long a file that makes no sense may still be one that is being written.
WRITING_SECONDS = 1.0
_RETRY_SECONDS = 0.02
# Two writes within one tick of the file system's clock leave the same time behind.
_TICK_NS = 100_000_000
# A real one has about 5 KiB.
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileVersion:
    """What tells one version of a file from another without reading it."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """Take it from what ``stat`` says."""
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)

    def has_content_of(self, other: FileVersion) -> bool:
        """Whether nobody has written since; being renamed over, as an old version is, writes nothing."""
        return (self.modified_ns, self.size) == (other.modified_ns, other.size)

    @property
    def is_settled(self) -> bool:
        """Whether a later write is certain to look different: the last one is not of this very moment."""
        return abs(time.time_ns() - self.changed_ns) > _TICK_NS


class FileProblem(Exception):
    """No document can be had from the file. Says why, quoting nothing.

    :ivar version: the version of which this is said; ``None`` when there is nothing or it is out of sight.
    """

    def __init__(self, reason: str, version: FileVersion | None = None) -> None:
        super().__init__(reason)
        self.version = version


class FileGone(FileProblem):
    """There is no file: never was, taken away, a dangling link, or something else in its place."""


class FileUnreadable(FileProblem):
    """There is a file, and the system does not let us read it."""


class FileBroken(FileProblem):
    """The content makes no sense, perhaps only at this moment."""


@dataclass(frozen=True)
class Reading:
    """A document and the version of the file that it was read from."""

    version: FileVersion
    document: Document


def version_of(path: Path) -> FileVersion | None:
    """Return the version that is there now, or ``None``. Follows a symbolic link."""
    try:
        return FileVersion.of(os.stat(path))
    except OSError:
        return None


def read(path: Path) -> Reading:
    """Read the file once.

    :raises FileProblem: it is gone, unreadable or broken.
    """
    version = None
    try:
        status = os.stat(path)
        version = FileVersion.of(status)
        _require_regular(status)
        # Without O_NONBLOCK, opening what has just become a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _read(descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise FileGone("no such file", version) from None
    except OSError as exc:
        raise FileUnreadable(exc.strerror or type(exc).__name__, version) from None


def read_whole(path: Path, *, timeout_seconds: float = WRITING_SECONDS) -> Reading:
    """Read the file, and read it again for a while as long as it makes no sense.

    :raises FileProblem: it is gone or unreadable, or was still broken at the end.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return read(path)
        except FileBroken:
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FileGone("a directory stands in its place", FileVersion.of(status))
    if not stat.S_ISREG(status.st_mode):
        raise FileGone("what stands in its place is not a file", FileVersion.of(status))


def _read(descriptor: int) -> Reading:
    version = FileVersion.of(os.fstat(descriptor))
    with open(descriptor, "rb", closefd=False) as file:
        octets = file.read(MAX_BYTES + 1)
    if len(octets) > MAX_BYTES:
        raise FileBroken("it is too large", version)
    if not FileVersion.of(os.fstat(descriptor)).has_content_of(version):
        raise FileBroken("it is being written", version)
    try:
        return Reading(version, decode(octets))
    except MalformedDocument as exc:
        raise FileBroken(str(exc), version) from None
