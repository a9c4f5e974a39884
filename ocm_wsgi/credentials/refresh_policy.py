"""When to refresh within one process: one refresh at a time, an outcome shared by all waiters, backoff after failures.

Processes are kept apart by the locks of :mod:`~ocm_wsgi.credentials.auth_file_locks`, not by this.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ocm_wsgi.credentials.auth_file import SIGN_IN, Document
from ocm_wsgi.credentials.refresh_client import Refresher
from ocm_wsgi.credentials.refresh_protocol import Problem, RefreshOutcome, Result
from ocm_wsgi.errors import CredentialError, CredentialRejected, CredentialUnavailable
from ocm_wsgi.oauth.refresh import RefreshFailed, RefreshReason, RefreshRefused

_log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 60.0
#: For this long, refreshed tokens are not refreshed again, whatever our clock or upstream say: each refresh uses up a
#: refresh token.
RECENT_SECONDS = 30.0


@dataclass(frozen=True)
class _Backoff:
    """The time after a failure in which a refresh of the same tokens is not retried."""

    fingerprint: str
    seconds: float
    until: float
    problem: Problem


@dataclass(frozen=True)
class RecentRefresh:
    """A refresh by this process so recent that its tokens are not refreshed again.

    :ivar reason: why the tokens were refreshed.
    :ivar left_seconds: how long the refresh still counts as recent.
    """

    reason: RefreshReason
    left_seconds: float


class RefreshPolicy:
    """Decides about refreshes of one credential in this process. Thread-safe.

    :param monotonic: a monotonic clock, in seconds.
    """

    def __init__(self, refresher: Refresher, path: Path, *, state_path: Path, monotonic: Callable[[], float]) -> None:
        self._refresher = refresher
        self._path = path
        self._state_path = state_path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._running: Future[RefreshOutcome] | None = None
        self._backoff: _Backoff | None = None
        self._refused: tuple[str, str] | None = None
        self._last_refresh: tuple[str | None, RefreshReason, float] | None = None

    def refresh(self, document: Document, reason: RefreshReason) -> None:
        """Refresh these tokens, or wait for the refresh in progress. The file then contains other tokens.

        :raises CredentialRejected: only the owner can fix it.
        :raises CredentialUnavailable: the refresh failed temporarily, now or very recently.
        """
        self._require_refreshable(document)
        outcome = self._shared_outcome(document, reason)
        if outcome.result is Result.REFUSED:
            raise RefreshRefused(outcome.detail)
        if outcome.problem is not None:
            raise self._failure(outcome.problem)

    def recent_refresh(self, document: Document) -> RecentRefresh | None:
        """Return the recent refresh by this process that produced these tokens, or ``None``."""
        if self._last_refresh is None:
            return None
        fingerprint, reason, until = self._last_refresh
        left_seconds = until - self._monotonic()
        return RecentRefresh(reason, left_seconds) if fingerprint == document.fingerprint and left_seconds > 0 else None

    def can_refresh(self, document: Document) -> bool:
        """Return whether :meth:`refresh` would attempt a refresh instead of repeating a known failure."""
        is_refused = self._refused is not None and self._refused[0] == document.fingerprint
        return document.refresh_token is not None and not is_refused and not self._is_backing_off(document)

    def raise_if_known_to_fail(self, document: Document) -> None:
        """Raise the error that :meth:`refresh` would raise without attempting a refresh, if any.

        :raises CredentialRejected: only the owner can fix it.
        :raises CredentialUnavailable: a refresh failed very recently.
        """
        self._require_refreshable(document)
        backoff = self._backoff
        if backoff is not None and self._is_backing_off(document):
            raise self._failure(backoff.problem)

    def _require_refreshable(self, document: Document) -> None:
        if document.refresh_token is None:
            raise CredentialRejected(
                f"The owner's sign-in to OpenAI has ended and cannot be refreshed. The owner must {SIGN_IN}.",
                detail="tokens.refresh_token is missing",
            )
        refused = self._refused
        if refused is not None and refused[0] == document.fingerprint:
            raise RefreshRefused(refused[1])
        oauth_code = self._refresher.refusal(self._path, state_path=self._state_path, document=document)
        if oauth_code is not None:
            self._remember_refusal(document, oauth_code)
            raise RefreshRefused(oauth_code)

    def _shared_outcome(self, document: Document, reason: RefreshReason) -> RefreshOutcome:
        with self._lock:
            running = self._running
            if running is None:
                if self._backoff is not None and self._is_backing_off(document):
                    raise self._failure(self._backoff.problem)
                own = self._running = Future()
        if running is not None:
            return running.result()
        return self._run(own, document, reason)

    def _run(self, own: Future[RefreshOutcome], document: Document, reason: RefreshReason) -> RefreshOutcome:
        outcome = RefreshOutcome.failed(Problem.PROCESS, "the refresh was interrupted")
        try:
            outcome = self._refresher.refresh(self._path, state_path=self._state_path, document=document, reason=reason)
        finally:
            with self._lock:
                self._apply_outcome(document, reason, outcome)
                self._running = None
            own.set_result(outcome)
        return outcome

    def _apply_outcome(self, document: Document, reason: RefreshReason, outcome: RefreshOutcome) -> None:
        if outcome.result is Result.FAILED and outcome.problem is not None:
            before = (
                self._backoff.seconds if self._backoff and self._backoff.fingerprint == document.fingerprint else 0.0
            )
            seconds = min(before * 2, MAX_BACKOFF_SECONDS) or FIRST_BACKOFF_SECONDS
            self._backoff = _Backoff(document.fingerprint, seconds, self._monotonic() + seconds, outcome.problem)
            _log.warning("The access token could not be refreshed (%s): %s", outcome.problem.value, outcome.detail)
            return
        self._backoff = None
        if outcome.result is Result.REFUSED:
            self._remember_refusal(document, outcome.detail)
        elif outcome.result is Result.REFRESHED:
            self._last_refresh = (outcome.fingerprint, reason, self._monotonic() + RECENT_SECONDS)
            _log.info("The access token was refreshed")
        elif outcome.detail:
            _log.info("The access token was not refreshed: %s", outcome.detail)

    def _remember_refusal(self, document: Document, oauth_code: str) -> None:
        refused = (document.fingerprint, oauth_code)
        if refused != self._refused:
            self._refused = refused
            _log.error("OpenAI permanently refused the refresh token (%s): the owner must sign in again", oauth_code)

    def _is_backing_off(self, document: Document) -> bool:
        backoff = self._backoff
        return backoff is not None and backoff.fingerprint == document.fingerprint and self._monotonic() < backoff.until

    def _failure(self, problem: Problem) -> CredentialError:
        backoff = self._backoff
        seconds = max(1, math.ceil(backoff.until - self._monotonic())) if backoff is not None else 1
        if problem is Problem.UNWRITABLE:
            return CredentialRejected(
                "The service is not allowed to write its OpenAI credential and cannot refresh it. "
                "Its owner must allow that.",
                detail="the credential file cannot be written",
            )
        if problem is Problem.ENDPOINT:
            return RefreshFailed("the token endpoint failed very recently", retry_after_seconds=seconds)
        return CredentialUnavailable(
            _MESSAGES[problem], detail=f"refresh: {problem.value}", retry_after_seconds=seconds
        )


_MESSAGES = {
    Problem.NO_SPACE: "The service has no disk space for refreshing its OpenAI credential. Its owner must free some.",
    Problem.BUSY: "Another program is refreshing the service's OpenAI credential. Try again shortly.",
    Problem.FILE: "The service's OpenAI credential cannot be refreshed as it is. Its owner must sign in again.",
    Problem.PROCESS: "The service could not refresh its OpenAI credential. Try again shortly.",
}
