"""When to renew, within one process: one at a time, all who wait share the outcome, and a failure is let rest.

What keeps processes apart are the locks of :mod:`~ocm_wsgi.credentials.auth_file_locks`, not this.
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
# Tokens so young are not renewed again, whatever our clock or upstream say: each renewal spends a refresh token.
RECENT_SECONDS = 30.0


@dataclass(frozen=True)
class _Backoff:
    """The time after a failure in which no renewal of the same tokens is tried."""

    fingerprint: str
    seconds: float
    until: float
    problem: Problem


@dataclass(frozen=True)
class RecentRefresh:
    """The time in which tokens that this process renewed count as new.

    :ivar reason: why those before them were given up.
    :ivar left_seconds: how long it still lasts.
    """

    reason: RefreshReason
    left_seconds: float


class RefreshPolicy:
    """The renewals of one credential in this process. Thread-safe.

    :param monotonic: seconds that never run backwards.
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
        self._newest: tuple[str | None, RefreshReason, float] | None = None

    def refresh(self, document: Document, reason: RefreshReason) -> None:
        """Renew these tokens or wait for who does. When this returns the file holds others, or will say why not.

        :raises CredentialRejected: only the owner can mend it.
        :raises CredentialUnavailable: it failed for now, or did a moment ago.
        """
        self._require_refreshable(document)
        outcome = self._joined(document, reason)
        if outcome.result is Result.REFUSED:
            raise RefreshRefused(outcome.detail)
        if outcome.problem is not None:
            raise self._failure(outcome.problem)

    def recent_refresh(self, document: Document) -> RecentRefresh | None:
        """Return how new these tokens are, or ``None`` when they are not, or come from elsewhere."""
        if self._newest is None:
            return None
        fingerprint, reason, until = self._newest
        left_seconds = until - self._monotonic()
        return RecentRefresh(reason, left_seconds) if fingerprint == document.fingerprint and left_seconds > 0 else None

    def is_worth_trying(self, document: Document) -> bool:
        """Tell whether :meth:`renew` would ask anybody, and not just repeat what is known."""
        is_refused = self._refused is not None and self._refused[0] == document.fingerprint
        return document.refresh_token is not None and not is_refused and not self._is_backing_off(document)

    def raise_if_known_to_fail(self, document: Document) -> None:
        """Raise what :meth:`renew` would without asking anybody.

        :raises CredentialRejected: only the owner can mend it.
        :raises CredentialUnavailable: it failed a moment ago.
        """
        self._require_refreshable(document)
        backoff = self._backoff
        if backoff is not None and self._is_backing_off(document):
            raise self._failure(backoff.problem)

    def _require_refreshable(self, document: Document) -> None:
        if document.refresh_token is None:
            raise CredentialRejected(
                f"The owner's sign-in to OpenAI has ended and cannot be renewed. The owner must {SIGN_IN}.",
                detail="tokens.refresh_token is missing",
            )
        refused = self._refused
        if refused is not None and refused[0] == document.fingerprint:
            raise RefreshRefused(refused[1])
        oauth_code = self._refresher.refusal(self._path, state_path=self._state_path, document=document)
        if oauth_code is not None:
            self._remember_refusal(document, oauth_code)
            raise RefreshRefused(oauth_code)

    def _joined(self, document: Document, reason: RefreshReason) -> RefreshOutcome:
        with self._lock:
            running = self._running
            if running is None:
                if self._backoff is not None and self._is_backing_off(document):
                    raise self._failure(self._backoff.problem)
                mine = self._running = Future()
        if running is not None:
            return running.result()
        return self._led(mine, document, reason)

    def _led(self, mine: Future[RefreshOutcome], document: Document, reason: RefreshReason) -> RefreshOutcome:
        outcome = RefreshOutcome.failed(Problem.PROCESS, "it was given up")
        try:
            outcome = self._refresher.refresh(self._path, state_path=self._state_path, document=document, reason=reason)
        finally:
            with self._lock:
                self._settle(document, reason, outcome)
                self._running = None
            mine.set_result(outcome)
        return outcome

    def _settle(self, document: Document, reason: RefreshReason, outcome: RefreshOutcome) -> None:
        if outcome.result is Result.FAILED and outcome.problem is not None:
            before = (
                self._backoff.seconds if self._backoff and self._backoff.fingerprint == document.fingerprint else 0.0
            )
            seconds = min(before * 2, MAX_BACKOFF_SECONDS) or FIRST_BACKOFF_SECONDS
            self._backoff = _Backoff(document.fingerprint, seconds, self._monotonic() + seconds, outcome.problem)
            _log.warning("the access token could not be renewed (%s): %s", outcome.problem.value, outcome.detail)
            return
        self._backoff = None
        if outcome.result is Result.REFUSED:
            self._remember_refusal(document, outcome.detail)
        elif outcome.result is Result.REFRESHED:
            self._newest = (outcome.fingerprint, reason, self._monotonic() + RECENT_SECONDS)
            _log.info("the access token was renewed")
        elif outcome.detail:
            _log.info("the access token was not renewed: %s", outcome.detail)

    def _remember_refusal(self, document: Document, oauth_code: str) -> None:
        refused = (document.fingerprint, oauth_code)
        if refused != self._refused:
            self._refused = refused
            _log.error("OpenAI refused the refresh token for good (%s): the owner must sign in again", oauth_code)

    def _is_backing_off(self, document: Document) -> bool:
        backoff = self._backoff
        return backoff is not None and backoff.fingerprint == document.fingerprint and self._monotonic() < backoff.until

    def _failure(self, problem: Problem) -> CredentialError:
        backoff = self._backoff
        seconds = max(1, math.ceil(backoff.until - self._monotonic())) if backoff is not None else 1
        if problem is Problem.UNWRITABLE:
            return CredentialRejected(
                "The service may not write its OpenAI credential, so it cannot renew it. Its owner must allow that.",
                detail="the credential file cannot be written",
            )
        if problem is Problem.ENDPOINT:
            return RefreshFailed("the token endpoint failed a moment ago", retry_after_seconds=seconds)
        return CredentialUnavailable(
            _SENTENCES[problem], detail=f"renewal: {problem.value}", retry_after_seconds=seconds
        )


_SENTENCES = {
    Problem.NO_SPACE: "The service has no disk space left to renew its OpenAI credential. Its owner must make some.",
    Problem.BUSY: "Another program is renewing the service's OpenAI credential. Try again shortly.",
    Problem.FILE: "The service's OpenAI credential cannot be renewed as it is. Its owner must sign in again.",
    Problem.PROCESS: "The service could not renew its OpenAI credential. Try again shortly.",
}
