"""Whether the service can serve requests, and if not, why. No Flask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ocm_wsgi.credentials import CredentialSource
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.storage.database import Database

#: How long a result is cached: anyone may request it, and must not be able to keep the database busy.
CACHE_SECONDS = 1.0


class Readiness:
    """Checks the credential and the state database, which every request needs. Thread-safe; one check at a time.

    :param monotonic: seconds that never run backwards.
    """

    def __init__(
        self, credentials: CredentialSource, database: Database, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._credentials = credentials
        self._database = database
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._reasons: list[str] = []

    def reasons(self) -> list[str]:
        """Return why requests cannot be served, in sentences without secrets; an empty list when they can."""
        with self._lock:
            now = self._monotonic()
            if self._checked_at is None or now - self._checked_at >= CACHE_SECONDS:
                self._reasons = self._check()
                self._checked_at = self._monotonic()
            return self._reasons

    def _check(self) -> list[str]:
        reasons = []
        try:
            self._credentials.peek()
        except CredentialError as exc:
            reasons.append(exc.message)
        try:
            # On SQLite this takes the write lock, and writes nothing.
            with self._database.write():
                pass
        except StateError:
            reasons.append("The state database cannot be written to.")
        return reasons
