"""Whether the service can serve requests, and if not, why. No Flask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ocm_wsgi.credentials import CredentialSource
from ocm_wsgi.errors import CredentialError, StateError
from ocm_wsgi.storage.database import Database

#: How long a result is cached: anyone may request it, and must not be able to keep the database busy.
CACHE_SECONDS = 1.0


class Readiness:
    """Checks the credentials and the state database, which every request needs. Thread-safe; one check at a time.

    With several credentials, one that can be used suffices: the service is not down while it serves some of its users.

    :param monotonic: seconds that never run backwards.
    """

    def __init__(
        self,
        credentials: Sequence[CredentialSource],
        database: Database,
        monotonic: Callable[[], float] = time.monotonic,
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
        reasons = self._credential_problems()
        try:
            # On SQLite this takes the write lock, and writes nothing.
            with self._database.write():
                pass
        except StateError:
            reasons.append("The state database cannot be written to.")
        return reasons

    def _credential_problems(self) -> list[str]:
        """Return why no credential can be used; nothing if one can."""
        problems = []
        for credentials in self._credentials:
            try:
                credentials.peek()
            except CredentialError as exc:
                problems.append(exc.message)
            else:
                return []
        return list(dict.fromkeys(problems))
