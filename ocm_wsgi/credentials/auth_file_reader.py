"""Reading ``auth.json`` while other programs write it.

Codex before 0.169 truncates the file and then writes it, so a reader can find it empty or incomplete; this was measured
to last up to 40 ms. Later versions replace the file, so that each version has a new inode.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ocm_wsgi.credentials.auth_file import Document, MalformedDocument, decode
from ocm_wsgi.credentials.credential import Mode
from ocm_wsgi.errors import CredentialError

#: How long an invalid file may still be one that is being written.
WRITING_SECONDS = 1.0
_RETRY_SECONDS = 0.02
# Two writes within one tick of the file system's clock get the same timestamp.
_TICK_NS = 100_000_000
#: A real file is about 5 KiB.
MAX_BYTES = 1024 * 1024


class FileVersion(NamedTuple):
    """Distinguishes versions of a file without reading it."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """Return the version with this ``stat`` result."""
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)

    def has_content_of(self, other: FileVersion) -> bool:
        """Return whether nothing was written since ``other``. Being replaced by a rename does not count as a write."""
        return (self.modified_ns, self.size) == (other.modified_ns, other.size)

    @property
    def is_settled(self) -> bool:
        """Whether a later write is certain to change the version, because the last change is long enough ago."""
        return abs(time.time_ns() - self.changed_ns) > _TICK_NS


class FileProblem(Exception):
    """The file contains no document. The message says why and quotes nothing of it.

    :ivar version: the version of the file; ``None`` if there is no file or it cannot be examined.
    """

    def __init__(self, reason: str, version: FileVersion | None = None) -> None:
        super().__init__(reason)
        self.version = version


class FileGone(FileProblem):
    """There is no file: missing, a dangling symbolic link, or something other than a file."""


class FileUnreadable(FileProblem):
    """The file exists but may not be read."""


class FileBroken(FileProblem):
    """The content is invalid, perhaps only because it is being written."""


@dataclass(frozen=True)
class Reading:
    """A document and the version of the file it was read from."""

    version: FileVersion
    document: Document


def version_of(path: Path | str) -> FileVersion | None:
    """Return the current version of the file, or ``None`` if there is none. Follows a symbolic link."""
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
        # Without O_NONBLOCK, opening a file that has just been replaced with a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _read(descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise FileGone("no such file", version) from None
    except OSError as exc:
        raise FileUnreadable(exc.strerror or type(exc).__name__, version) from None


def read_with_retries(path: Path, *, timeout_seconds: float = WRITING_SECONDS) -> Reading:
    """Read the file; retry while its content is invalid.

    :param timeout_seconds: to retry for.
    :raises FileProblem: it is gone or unreadable, or was still broken after the timeout.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return read(path)
        except FileBroken:
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def holds_api_key(path: Path) -> bool:
    """Return whether the file contains an API key that would be used; false also if it cannot be read."""
    try:
        return read_with_retries(path).document.credential().mode is Mode.API_KEY
    except (FileProblem, CredentialError):
        return False


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FileGone("it is a directory", FileVersion.of(status))
    if not stat.S_ISREG(status.st_mode):
        raise FileGone("it is not a regular file", FileVersion.of(status))


def _read(descriptor: int) -> Reading:
    version = FileVersion.of(os.fstat(descriptor))
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise FileBroken("it is too large", version)
    if not FileVersion.of(os.fstat(descriptor)).has_content_of(version):
        raise FileBroken("it is being written", version)
    try:
        return Reading(version, decode(content))
    except MalformedDocument as exc:
        raise FileBroken(str(exc), version) from None
