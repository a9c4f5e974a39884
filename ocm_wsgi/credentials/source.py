"""Where a request gets the owner's credential from."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ocm_wsgi.credentials.auth_file_watcher import AuthFileWatcher, CredentialSnapshot, copy_of
from ocm_wsgi.credentials.credential import Credential, Mode
from ocm_wsgi.credentials.refresh_client import Refresher
from ocm_wsgi.credentials.refresh_policy import RefreshPolicy
from ocm_wsgi.errors import CredentialError, CredentialRejected, CredentialUnavailable
from ocm_wsgi.oauth.refresh import RefreshReason

# As the Codex client does: so long before an access token's end, and at this age when its end cannot be read.
REFRESH_BEFORE_SECONDS = 5 * 60
REFRESH_AGE_SECONDS = 8 * 24 * 3600

# How often tokens that another program put there, and that are no better, are taken up within one call.
_ATTEMPTS = 3


class CredentialSource:
    """One credential file, kept fresh. Thread-safe, and usable in the children of a fork.

    Making one touches no file: the service starts before there is a credential.

    :param state_path: a directory of ours, for what must be remembered across processes; made when needed.
    :param clock: Unix seconds.
    :param monotonic: seconds that never run backwards.
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
        self._begin()
        # A thread may hold one of our locks at the moment of a fork, and is not there in the child to release it.
        begin = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: (method := begin()) and method())

    def _begin(self) -> None:
        self._file = AuthFileWatcher(self._path)
        self._policy = RefreshPolicy(
            self._refresher, self._path, state_path=self._state_path, monotonic=self._monotonic
        )
        self._background = threading.Lock()

    def current(self) -> Credential:
        """Return the credential to use now, renewed first when its access token has expired.

        In the last five minutes before that it is renewed behind the caller's back, and returned as it still is.

        :raises CredentialUnavailable: it is missing, broken or could not be renewed, for now.
        :raises CredentialRejected: only the owner can mend it.
        """
        snapshot = self._file.snapshot()
        if not self._is_due(snapshot):
            return snapshot.credential
        if not self._has_expired(snapshot):
            self._refresh_in_background(snapshot)
            return snapshot.credential
        return self._refreshed(snapshot, RefreshReason.PROACTIVE)

    def peek(self) -> Credential:
        """Return the credential as it stands, for those who only look: it is not renewed.

        An access token that has expired is fine as long as nothing is known to keep the next request from renewing it.

        :raises CredentialUnavailable: it is missing, broken or could not be renewed a moment ago.
        :raises CredentialRejected: only the owner can mend it.
        """
        snapshot = self._file.snapshot()
        if self._has_expired(snapshot):
            if snapshot.problem is not None:
                raise copy_of(snapshot.problem)
            self._policy.raise_if_known_to_fail(snapshot.document)
        return snapshot.credential

    def replacement(self, rejected: Credential) -> Credential:
        """Return what to use instead of a credential that upstream answered with 401.

        That is what the file holds, if it is something else by now; otherwise the tokens are renewed.

        :raises CredentialUnavailable: there is none for now.
        :raises CredentialRejected: only the owner can mend it.
        """
        snapshot = self._file.snapshot()
        if snapshot.credential.access_token != rejected.access_token:
            return self.current()
        if snapshot.credential.mode is Mode.API_KEY:
            raise CredentialRejected("OpenAI does not accept the owner's API key. The owner must put in another one.")
        recent = self._policy.recent_refresh(snapshot.document)
        if recent is not None and recent.reason is RefreshReason.UNAUTHORIZED:
            raise CredentialUnavailable(
                "OpenAI does not accept the owner's access token, although it was just renewed.",
                detail="upstream answered 401 to a token that was renewed for that very reason",
                retry_after_seconds=math.ceil(recent.left_seconds),
            )
        return self._refreshed(snapshot, RefreshReason.UNAUTHORIZED)

    def _refreshed(self, snapshot: CredentialSnapshot, reason: RefreshReason) -> Credential:
        for _ in range(_ATTEMPTS):
            if snapshot.problem is not None:
                raise copy_of(snapshot.problem)
            failure = self._refresh(snapshot, reason)
            # Whatever came of it: another program may have put something better there.
            latest = self._file.snapshot()
            is_other = latest.document.fingerprint != snapshot.document.fingerprint
            if (is_other or reason is RefreshReason.PROACTIVE) and not self._has_expired(latest):
                return latest.credential
            if failure is not None and not is_other:
                raise failure
            snapshot = latest
        raise CredentialUnavailable(
            "The service's OpenAI credential keeps changing. Try again shortly.",
            detail=f"after {_ATTEMPTS} renewals by other programs the access token is still an expired one",
            retry_after_seconds=1,
        )

    def _refresh_in_background(self, snapshot: CredentialSnapshot) -> None:
        """Renew in a thread of its own, one at a time. A process that ends meanwhile does no harm to it."""
        is_possible = snapshot.problem is None and self._policy.is_worth_trying(snapshot.document)
        if is_possible and self._background.acquire(blocking=False):
            threading.Thread(target=self._refresh_quietly, args=(snapshot,), name="credential", daemon=True).start()

    def _refresh_quietly(self, snapshot: CredentialSnapshot) -> None:
        try:
            # A failure is logged where it happens. The token in use is still good.
            with suppress(CredentialError):
                self._refreshed(snapshot, RefreshReason.PROACTIVE)
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
        ends_at = credential.ends_at
        if ends_at is not None:
            return ends_at <= self._clock() + REFRESH_BEFORE_SECONDS
        return credential.last_refresh is not None and credential.last_refresh + REFRESH_AGE_SECONDS <= self._clock()

    def _has_expired(self, snapshot: CredentialSnapshot) -> bool:
        ends_at = snapshot.credential.ends_at
        return ends_at is not None and ends_at <= self._clock() and not self._policy.recent_refresh(snapshot.document)
