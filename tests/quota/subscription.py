"""A subscription that is used through the service and outside it, with the real ledger, history and admission."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_record import record_of
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.admission.admission import Admission
from ocm_wsgi.config import load
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.protocol.responses.turn import Turn, TurnStatus, Usage
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.storage.database import Database

#: A Wednesday, 13:46:40 UTC.
START = 1_800_000_000
HOURS = 3600
WEEK_MINUTES = 10_080

_numbers = itertools.count()


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Shared:
    """The service's side: its state in a folder, and a clock that only tests advance."""

    folder: Path
    database: Database
    keys: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    is_api_key: bool = False

    def __post_init__(self) -> None:
        environ = {"HOME": str(self.folder), "OCM_STATE_PATH": str(self.folder / "state"), **self.keys}
        self.config = load(environ, self.folder)
        self.window_history = WindowHistory(self.database)
        self.admission = Admission(
            self.config,
            self.database,
            self.window_history,
            self.clock,
            is_api_key=lambda _tag: self.is_api_key,
        )

    def record(
        self,
        user: str,
        *,
        cost_usd: float = 0.0,
        tokens: int = 0,
        ago: float = 0.0,
        duration: float = 0.0,
        status: TurnStatus = "completed",
        id: str | None = None,
        credential: str = DEFAULT_CREDENTIAL,
    ) -> None:
        """Record a turn that started ``ago`` seconds before now."""
        turn = Turn(
            id=id or f"turn-{next(_numbers)}",
            started_at=self.clock.now - ago,
            user=user,
            credential=credential,
            model="gpt-5.5",
            service_tier="default",
            context_window=0,
            week_start=None,
            usage=Usage(tokens, 0, 0),
            cost_micro_usd=round(cost_usd * 1e6),
            transport="sse",
            status=status,
            http_status=200,
            first_byte_ms=10,
            duration_ms=round(duration * 1000),
        )
        with self.database.write_directly() as direct:
            queries.store_records(direct, [record_of(turn)])

    def note_windows(
        self, *, five_hours: tuple[float, int] | None = None, week: tuple[float, int] | None = None
    ) -> None:
        """Note upstream's windows as a response reports them: percent, and Unix seconds of the end."""
        primary = None if five_hours is None else RateLimitWindow(five_hours[0], 300, five_hours[1])
        secondary = None if week is None else RateLimitWindow(week[0], WEEK_MINUTES, week[1])
        self._note(DEFAULT_CREDENTIAL, primary, secondary)

    def note_week(self, credential: str, used_percent: float, end: int) -> None:
        """Note the week of one of several accounts."""
        self._note(credential, None, RateLimitWindow(used_percent, WEEK_MINUTES, end))

    def _note(self, credential: str, primary: RateLimitWindow | None, secondary: RateLimitWindow | None) -> None:
        limits = RateLimits((RateLimit("codex", primary, secondary),))
        self.window_history.note(credential, limits, self.clock.now)
        self.window_history.flush()
