"""The credential that the file holds now: noticed when it changes, remembered while it does not.

Never writes and never refreshes.
"""

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
    read_whole,
    version_of,
)
from ocm_wsgi.credentials.credential import Credential
from ocm_wsgi.errors import CredentialError, CredentialRejected, CredentialUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CredentialSnapshot:
    """A usable credential.

    :ivar problem: why the file cannot be read any more, if so; the credential is then the last one that it held.
    """

    document: Document
    credential: Credential
    problem: CredentialUnavailable | None = None


def copy_of(error: CredentialError) -> CredentialError:
    """Return the like of an error that is kept: one that is raised gathers the traceback of each time."""
    return type(error)(error.message, detail=error.detail, retry_after_seconds=error.retry_after_seconds)


@dataclass(frozen=True)
class _Seen:
    """What one version of the file came to.

    :ivar is_settled: whether a later write is certain to make another version.
    """

    version: FileVersion | None
    is_settled: bool
    outcome: CredentialSnapshot | CredentialError


class AuthFileWatcher:
    """The credential file. Thread-safe. Costs one ``stat`` a call as long as nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: _Seen | None = None
        self._last_good: CredentialSnapshot | None = None
        self._said: object = None

    def snapshot(self) -> CredentialSnapshot:
        """Return the credential.

        A file that makes no sense is read again for a second, once a version, in case it is being written. After
        that the last good credential stands in for it; but not for a file that is gone, for that is a sign-out.

        :raises CredentialUnavailable: the file is gone, or cannot be read and there is no last good credential.
        :raises CredentialRejected: it holds nothing that can be used here.
        """
        seen = self._seen
        if seen is None or not self._is_current(seen):
            with self._lock:
                seen = self._seen
                if seen is None or not self._is_current(seen):
                    seen = self._seen = self._look()
        if isinstance(seen.outcome, CredentialError):
            raise copy_of(seen.outcome)
        return seen.outcome

    def _is_current(self, seen: _Seen) -> bool:
        return seen.is_settled and seen.version == version_of(self._path)

    def _look(self) -> _Seen:
        try:
            reading = read_whole(self._path)
        except FileProblem as exc:
            return _Seen(exc.version, exc.version is None or exc.version.is_settled, self._without_document(exc))
        return _Seen(reading.version, reading.version.is_settled, self._with_document(reading.document))

    def _with_document(self, document: Document) -> CredentialSnapshot | CredentialError:
        try:
            snapshot = CredentialSnapshot(document, document.credential())
        except CredentialRejected as exc:
            self._last_good = None
            self._say(exc.detail, logging.WARNING, "the credential file holds nothing usable: %s", exc.detail)
            return exc
        self._say_found(snapshot)
        self._last_good = snapshot
        return snapshot

    def _without_document(self, problem: FileProblem) -> CredentialSnapshot | CredentialError:
        reason = str(problem)
        if isinstance(problem, FileGone):
            self._last_good = None
            self._say(reason, logging.WARNING, "there is no credential file: %s", reason)
            return CredentialUnavailable(
                "The service has no OpenAI credential. "
                "Its owner must sign in with `flask ocm login`, or `codex login`.",
                detail=f"credential file: {reason}",
            )
        self._say(reason, logging.WARNING, "the credential file cannot be used: %s", reason)
        what = "may not read" if isinstance(problem, FileUnreadable) else "cannot make sense of"
        error = CredentialUnavailable(
            f"The service {what} its OpenAI credential. Its owner must mend the file or sign in again.",
            detail=f"credential file: {reason}",
        )
        if self._last_good is None:
            return error
        return CredentialSnapshot(self._last_good.document, self._last_good.credential, problem=error)

    def _say_found(self, snapshot: CredentialSnapshot) -> None:
        before = self._last_good
        if before is None:
            sentence = "the credential file is there (%s)"
        elif before.credential.account_id != snapshot.credential.account_id:
            sentence = "the credential file now belongs to another account (%s)"
        else:
            sentence = "the credential file has changed (%s)"
        self._say(snapshot.document.fingerprint, logging.INFO, sentence, snapshot.credential.mode.value)

    def _say(self, state: object, level: int, sentence: str, *values: object) -> None:
        """Log a state when it is entered, and not with every look at it."""
        if state != self._said:
            self._said = state
            _log.log(level, sentence, *values)
