"""The credential in the file, cached until the file changes. Never writes the file and never refreshes tokens."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.auth_file_reader import (
    FileGone,
    FileProblem,
    FileUnreadable,
    FileVersion,
    read_with_retries,
    version_of,
)
from ocm_wsgi.credentials.credential import Credential
from ocm_wsgi.errors import CredentialError, CredentialRejected, CredentialUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CredentialSnapshot:
    """A usable credential.

    :ivar problem: why the file can no longer be read, if so; the credential is then the last valid one.
    """

    document: Document
    credential: Credential
    problem: CredentialUnavailable | None = None


def copy_of(error: CredentialError) -> CredentialError:
    """Return a copy of a cached error to raise: raising one object repeatedly would accumulate tracebacks."""
    return type(error)(error.message, detail=error.detail, retry_after_seconds=error.retry_after_seconds)


@dataclass(frozen=True)
class _CacheEntry:
    """The result of reading one version of the file.

    :ivar is_settled: whether a later write is certain to change the version.
    """

    version: FileVersion | None
    is_settled: bool
    outcome: CredentialSnapshot | CredentialError


class AuthFileWatcher:
    """Reads the credential file when it has changed. Thread-safe. Costs one ``stat`` a call while nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)  # Finding the name of a path takes longer than the system call.
        self._lock = threading.Lock()
        self._cached: _CacheEntry | None = None
        self._last_valid: CredentialSnapshot | None = None
        self._last_logged: object = None

    def snapshot(self) -> CredentialSnapshot:
        """Return the credential.

        An invalid file is read again for up to a second, once per version, because it may be in the middle of a write.
        After that the last valid credential is used instead; but not if the file is gone, because that is a sign-out.

        :raises CredentialUnavailable: the file is gone, or cannot be read and there is no last valid credential.
        :raises CredentialRejected: the file contains no credential that can be used here.
        """
        entry = self._cached
        if entry is None or not self._is_current(entry):
            with self._lock:
                entry = self._cached
                if entry is None or not self._is_current(entry):
                    entry = self._cached = self._load()
        if isinstance(entry.outcome, CredentialError):
            raise copy_of(entry.outcome)
        return entry.outcome

    def _is_current(self, entry: _CacheEntry) -> bool:
        return entry.is_settled and entry.version == version_of(self._name)

    def _load(self) -> _CacheEntry:
        try:
            reading = read_with_retries(self._path)
        except FileProblem as exc:
            return _CacheEntry(exc.version, exc.version is None or exc.version.is_settled, self._without_document(exc))
        return _CacheEntry(reading.version, reading.version.is_settled, self._with_document(reading.document))

    def _with_document(self, document: Document) -> CredentialSnapshot | CredentialError:
        try:
            snapshot = CredentialSnapshot(document, document.credential())
        except CredentialRejected as exc:
            self._last_valid = None
            self._log_change(
                exc.detail, logging.WARNING, "The credential file contains no usable credential: %s", exc.detail
            )
            return exc
        self._log_found(snapshot)
        self._last_valid = snapshot
        return snapshot

    def _without_document(self, problem: FileProblem) -> CredentialSnapshot | CredentialError:
        reason = str(problem)
        if isinstance(problem, FileGone):
            self._last_valid = None
            self._log_change(reason, logging.WARNING, "There is no credential file: %s", reason)
            return CredentialUnavailable(
                "The service has no OpenAI credential. Its owner must sign in with `ocm login`, or `codex login`.",
                detail=f"credential file: {reason}",
            )
        self._log_change(reason, logging.WARNING, "The credential file cannot be used: %s", reason)
        what = "is not allowed to read" if isinstance(problem, FileUnreadable) else "cannot parse"
        error = CredentialUnavailable(
            f"The service {what} its OpenAI credential. Its owner must fix the file or sign in again.",
            detail=f"credential file: {reason}",
        )
        if self._last_valid is None:
            return error
        return CredentialSnapshot(self._last_valid.document, self._last_valid.credential, problem=error)

    def _log_found(self, snapshot: CredentialSnapshot) -> None:
        before = self._last_valid
        if before is None:
            sentence = "Found the credential file (%s)"
        elif before.credential.account_id != snapshot.credential.account_id:
            sentence = "The credential file now belongs to another account (%s)"
        else:
            sentence = "The credential file has changed (%s)"
        self._log_change(snapshot.document.fingerprint, logging.INFO, sentence, snapshot.credential.mode.value)

    def _log_change(self, state: object, level: int, sentence: str, *values: object) -> None:
        """Log a message if the state has changed since the last one."""
        if state != self._last_logged:
            self._last_logged = state
            _log.log(level, sentence, *values)
