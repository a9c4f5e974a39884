"""May this user do this now? Models, limits, the owner's reserve, and turns at once.

Asked before a turn is sent to upstream, of what turns that have ended have used: one that is under way when a limit
is reached is never cut.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_accounting import nothing_to_release
from ocm_wsgi.accounting.window_history import WindowHistory, WindowState
from ocm_wsgi.admission.concurrency import Slots
from ocm_wsgi.errors import ModelNotAllowed, StateError, TooManyConcurrent, UsageLimitReached
from ocm_wsgi.quota import limits
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import MEASURED_BY, PERIOD_NAMES, Limit, Period, Span
from ocm_wsgi.users.user import User

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ocm_wsgi.config import Config
    from ocm_wsgi.storage.database import Database

logger = logging.getLogger(__name__)

#: How long a client is asked to wait for a turn of its user to end.
CONCURRENCY_RETRY_SECONDS = 5

_LONGEST_MODEL_SHOWN = 60


@dataclass(frozen=True)
class Use:
    """How a limit stands.

    :ivar used: in the limit's own unit.
    """

    limit: Limit
    used: Decimal
    span: Span

    @property
    def is_reached(self) -> bool:
        return self.used >= self.limit.amount


class Admission:
    """Decides about turns. Safe to make before a fork and to share between threads.

    :param window_history: made anew when left out.
    :param clock: gives Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        window_history: WindowHistory | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._window_history = window_history or WindowHistory(database)
        self._clock = clock
        self._slots = Slots(config.state_path / "slots")
        self._reserves: Mapping[Period, int] = {"5h": config.reserve_5h, "week": config.reserve_weekly}

    def admit(self, user: User, model: str | None, *, credential: str = DEFAULT_CREDENTIAL) -> Callable[[], None]:
        """Let a turn begin, or refuse it.

        Looks at the database only for users with limits, and where there is a reserve.

        :param model: that the request names; ``None`` when that could not be told.
        :return: to be called when the turn ends, however it ends; calling it again does nothing.
        :raises ModelNotAllowed: the user may not use the model.
        :raises UsageLimitReached: one of the user's limits, or the reserve, is reached.
        :raises TooManyConcurrent: the user has as many turns under way as they may.
        :raises StateError: the user has limits, and they cannot be checked.
        """
        _require_model(user, model)
        has_reserve = not user.admin and any(self._reserves.values())
        if user.limits or has_reserve:
            self._require_quota(user, credential)
        if user.max_concurrent is None:
            return nothing_to_release
        slot = self._slots.take(user.name, user.max_concurrent)
        if slot is None:
            raise TooManyConcurrent(
                f"You have {user.max_concurrent} turns under way, as many as you may. Try again when one has ended.",
                retry_after_seconds=CONCURRENCY_RETRY_SECONDS,
            )
        return slot.release

    def uses(self, user: User, *, credential: str = DEFAULT_CREDENTIAL) -> list[Use]:
        """Say how each limit of a user stands now.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            states = self._window_history.states(connection, credential)
            return self._uses(connection, user, states, self._clock())

    def _require_quota(self, user: User, credential: str) -> None:
        now = self._clock()
        try:
            with self._database.read() as connection:
                states = self._window_history.states(connection, credential)
                if not user.admin:
                    self._require_reserve(states, now)
                reached = [use for use in self._uses(connection, user, states, now) if use.is_reached]
        except StateError as exc:
            if user.limits:
                message = "Your limits cannot be checked at the moment; try again."
                raise StateError(message, detail=exc.detail or exc.message, retry_after_seconds=5) from exc
            logger.warning("The reserve cannot be checked, so it is not kept: %s", exc.detail or exc)
            return
        if reached:
            raise _limit_reached(reached, now)

    def _uses(
        self, connection: sa.Connection, user: User, states: Mapping[Period, WindowState], now: float
    ) -> list[Use]:
        spans = {limit.period: _span(limit.period, states, now) for limit in user.limits}
        used = {
            period: queries.user_window(connection, user.name, span.start, span.end, now=now)
            for period, span in spans.items()
        }
        return [
            Use(
                limit,
                limits.used(limit, used[limit.period], _rate(MEASURED_BY[limit.period], states)),
                spans[limit.period],
            )
            for limit in user.limits
        ]

    def _require_reserve(self, states: Mapping[Period, WindowState], now: float) -> None:
        for period, reserve in self._reserves.items():
            state = states.get(period)
            if reserve and state is not None:
                latest = state.latest
                if now < latest.cycle.end and latest.used_percent >= 100 - reserve:
                    raise _reserved(PERIOD_NAMES[period], latest.cycle.end, now)


def _require_model(user: User, model: str | None) -> None:
    if not user.models or (model is not None and is_allowed(model, user.models)):
        return
    allowed = ", ".join(user.models)
    if model is None:
        raise ModelNotAllowed(f"The model that the request is for cannot be told; you may use: {allowed}.")
    shown = model if len(model) <= _LONGEST_MODEL_SHOWN else model[:_LONGEST_MODEL_SHOWN] + "…"
    raise ModelNotAllowed(f"You may not use the model {shown!r} here; you may use: {allowed}.")


def is_allowed(model: str, patterns: Iterable[str]) -> bool:
    """Say whether a model's name fits one of some patterns, as in a shell; case counts."""
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def _span(period: Period, states: Mapping[Period, WindowState], now: float) -> Span:
    state = states.get(period)
    return limits.span(period, now, state.latest.cycle if state else None)


def _rate(period: Period, states: Mapping[Period, WindowState]) -> float | None:
    state = states.get(period)
    return state.percent_per_usd if state else None


def _limit_reached(reached: Iterable[Use], now: float) -> UsageLimitReached:
    """Name the limit that holds for longest: before it ends, trying again is no use."""
    use = max(reached, key=lambda use: use.span.end)
    return UsageLimitReached(
        f"You have used up your limit of {use.limit}. It starts afresh at {_utc(use.span.end)}.",
        advice=f"Your limit here is {use.limit}; ask the owner of the service for more",
        resets_at=use.span.end,
        resets_in_seconds=math.ceil(use.span.end - now),
    )


def _reserved(window: str, end: int, now: float) -> UsageLimitReached:
    return UsageLimitReached(
        f"What is left of the subscription's {window} is kept for its owner. It starts afresh at {_utc(end)}.",
        advice=f"What is left of the subscription's {window} is kept for its owner",
        resets_at=end,
        resets_in_seconds=math.ceil(end - now),
    )


def _utc(time: int) -> str:
    return f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
