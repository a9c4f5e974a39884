"""Whether the service can serve, and if not, why. No Flask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ocm_wsgi.errors import CredentialError, StateError

if TYPE_CHECKING:
    from ocm_wsgi.service import Service

#: How long an answer holds: anyone may ask, and must not keep the database busy with it.
HOLD_SECONDS = 1.0


class Readiness:
    """Looks at what a request needs. Thread-safe; one look at a time.

    :param monotonic: seconds that never run backwards.
    """

    def __init__(self, service: Service, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._reasons: list[str] = []

    def reasons(self) -> list[str]:
        """Say what keeps requests from being served, in sentences without secrets; nothing when they can be."""
        with self._lock:
            now = self._monotonic()
            if self._looked_at is None or now - self._looked_at >= HOLD_SECONDS:
                self._reasons = self._look()
                self._looked_at = self._monotonic()
            return self._reasons

    def _look(self) -> list[str]:
        reasons = []
        try:
            self._service.credentials.peek()
        except CredentialError as exc:
            reasons.append(exc.message)
        try:
            # On SQLite this takes the lock for writing, and writes nothing.
            with self._service.database.write():
                pass
        except StateError:
            reasons.append("The state database cannot be written to.")
        return reasons
