"""The source of the owner's credential for requests."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from ocm_wsgi.credentials.auth_file_watcher import AuthFileWatcher, CredentialSnapshot, copy_of
from ocm_wsgi.credentials.credential import Credential, Mode
from ocm_wsgi.credentials.refresh_client import Refresher
from ocm_wsgi.credentials.refresh_policy import RefreshPolicy
from ocm_wsgi.credentials.unauthorized import KEY_CODES, TOKEN_CODES, ReplacedStore, request_unauthorized
from ocm_wsgi.errors import CredentialError, CredentialRejected, CredentialUnavailable, OcmError, ReconnectNeeded
from ocm_wsgi.oauth.refresh import RefreshReason

#: As in the Codex client: tokens are refreshed this long before they expire, or at this age if their expiry is unknown.
REFRESH_BEFORE_SECONDS = 5 * 60
REFRESH_AGE_SECONDS = 8 * 24 * 3600

# How often one call tries to refresh because another program has replaced the tokens by expired ones.
_ATTEMPTS = 3


class CredentialSource:
    """Provides the credential of one file, refreshed when needed. Thread-safe, and usable after a fork.

    The constructor accesses no file: the service starts before there is a credential.

    :param state_path: a directory of ours for state shared by all processes; created when needed.
    :param clock: returns Unix seconds.
    :param monotonic: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        state_path: Path,
        refresher: Refresher,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # The server may change its directory later.
        self._path = Path(os.path.abspath(path))
        self._state_path = Path(os.path.abspath(state_path))
        self._refresher = refresher
        self._clock = clock
        self._monotonic = monotonic
        self._reset()
        # A thread may hold one of our locks during a fork, and does not exist in the child to release it.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        self._file = AuthFileWatcher(self._path)
        self._policy = RefreshPolicy(
            self._refresher, self._path, state_path=self._state_path, monotonic=self._monotonic
        )
        self._background = threading.Lock()

    def current(self) -> Credential:
        """Return the credential to use now. An expired access token is refreshed first.

        In the five minutes before it expires it is refreshed in the background, and the current one is returned.

        :raises CredentialUnavailable: it is missing, broken or temporarily could not be refreshed.
        :raises CredentialRejected: only the owner can fix it.
        """
        snapshot = self._file.snapshot()
        if not self._is_due(snapshot):
            return snapshot.credential
        if not self._has_expired(snapshot):
            self._refresh_in_background(snapshot)
            return snapshot.credential
        return self._refreshed(snapshot, RefreshReason.PROACTIVE)

    def peek(self) -> Credential:
        """Return the credential without refreshing it, for display.

        An expired access token is not an error unless the next request is known to be unable to refresh it.

        :raises CredentialUnavailable: it is missing, broken or very recently could not be refreshed.
        :raises CredentialRejected: only the owner can fix it.
        """
        snapshot = self._file.snapshot()
        if self._has_expired(snapshot):
            if snapshot.problem is not None:
                raise copy_of(snapshot.problem)
            self._policy.raise_if_known_to_fail(snapshot.document)
        return snapshot.credential

    def is_api_key(self) -> bool:
        """Return whether the credential is an API key; false if there is none that can be read. Refreshes nothing."""
        with suppress(CredentialError):
            return self._file.snapshot().credential.mode is Mode.API_KEY
        return False

    def replacement(self, rejected: Credential, error_code: str | None = None) -> Credential:
        """Return a replacement for a credential that upstream rejected with 401.

        If the file has changed in the meantime, that is its new content. Otherwise the tokens are refreshed, provided
        that they are to blame: by the error's code, or because they expire soon by their own account.

        :param error_code: the code of upstream's error; ``None`` if it has none.
        :raises RequestUnauthorized: another credential would be rejected too.
        :raises CredentialUnavailable: there is none at the moment.
        :raises CredentialRejected: only the owner can fix it.
        """
        snapshot = self._file.snapshot()
        if snapshot.credential.access_token != rejected.access_token:
            return self.current()
        if snapshot.credential.mode is Mode.API_KEY:
            if error_code in KEY_CODES:
                raise CredentialRejected("OpenAI does not accept the owner's API key. The owner must replace it.")
            raise request_unauthorized(error_code)
        if error_code not in TOKEN_CODES and not self._is_due(snapshot):
            raise request_unauthorized(error_code)
        if self._was_replaced(snapshot):
            raise request_unauthorized(error_code, is_replaced=True)
        return self._refreshed(snapshot, RefreshReason.UNAUTHORIZED)

    def replace_later(self, rejected: Credential, error_code: str | None = None) -> OcmError:
        """Replace a credential that upstream has rejected within an open connection, without waiting for that.

        :param error_code: as for :meth:`replacement`.
        :return: the error for the connection's client.
        """
        if rejected.mode is Mode.API_KEY or error_code not in TOKEN_CODES:
            return request_unauthorized(error_code)
        if self._background.acquire(blocking=False):
            arguments = (partial(self.replacement, rejected, error_code),)
            threading.Thread(target=self._run_quietly, args=arguments, name="credential", daemon=True).start()
        return ReconnectNeeded("The owner's sign-in to OpenAI had to be refreshed. Open another WebSocket.")

    def _was_replaced(self, snapshot: CredentialSnapshot) -> bool:
        recent = self._policy.recent_refresh(snapshot.document)
        if recent is not None and recent.reason is RefreshReason.UNAUTHORIZED:
            return True
        return ReplacedStore(self._path, state_path=self._state_path).is_held(snapshot.document.fingerprint)

    def _refreshed(self, snapshot: CredentialSnapshot, reason: RefreshReason) -> Credential:
        for _ in range(_ATTEMPTS):
            if snapshot.problem is not None:
                raise copy_of(snapshot.problem)
            failure = self._refresh(snapshot, reason)
            # Whatever the outcome, another program may have written better tokens.
            latest = self._file.snapshot()
            is_other = latest.document.fingerprint != snapshot.document.fingerprint
            if (is_other or reason is RefreshReason.PROACTIVE) and not self._has_expired(latest):
                return latest.credential
            if failure is not None and not is_other:
                raise failure
            snapshot = latest
        raise CredentialUnavailable(
            "The service's OpenAI credential keeps changing. Try again shortly.",
            detail=f"after {_ATTEMPTS} changes by other programs the access token is still expired",
            retry_after_seconds=1,
        )

    def _refresh_in_background(self, snapshot: CredentialSnapshot) -> None:
        """Refresh in a thread, one at a time. It is safe for this process to exit in the meantime."""
        is_possible = snapshot.problem is None and self._policy.can_refresh(snapshot.document)
        if is_possible and self._background.acquire(blocking=False):
            arguments = (partial(self._refreshed, snapshot, RefreshReason.PROACTIVE),)
            threading.Thread(target=self._run_quietly, args=arguments, name="credential", daemon=True).start()

    def _run_quietly(self, refresh: Callable[[], object]) -> None:
        try:
            # Failures are logged by the policy, and the next request reports them.
            with suppress(OcmError):
                refresh()
        finally:
            self._background.release()

    def _refresh(self, snapshot: CredentialSnapshot, reason: RefreshReason) -> CredentialError | None:
        try:
            self._policy.refresh(snapshot.document, reason)
        except CredentialError as exc:
            return exc
        return None

    def _is_due(self, snapshot: CredentialSnapshot) -> bool:
        credential = snapshot.credential
        if credential.mode is not Mode.CHATGPT or self._policy.recent_refresh(snapshot.document):
            return False
        effective_expiry = credential.effective_expiry
        if effective_expiry is not None:
            return effective_expiry <= self._clock() + REFRESH_BEFORE_SECONDS
        return credential.last_refresh is not None and credential.last_refresh + REFRESH_AGE_SECONDS <= self._clock()

    def _has_expired(self, snapshot: CredentialSnapshot) -> bool:
        effective_expiry = snapshot.credential.effective_expiry
        return (
            effective_expiry is not None
            and effective_expiry <= self._clock()
            and not self._policy.recent_refresh(snapshot.document)
        )
