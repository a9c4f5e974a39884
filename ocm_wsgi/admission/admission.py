"""Decides whether a user may run a turn now: allowed models, limits, the owner's reserve, and concurrency.

Admission is decided before a turn is sent upstream, by the usage of turns that have ended. A turn in progress is never
cut because a limit is reached.
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

_log = logging.getLogger(__name__)

#: The ``Retry-After`` of a refusal for too many concurrent turns, in seconds.
CONCURRENCY_RETRY_SECONDS = 5

_LONGEST_MODEL_SHOWN = 60


@dataclass(frozen=True)
class LimitUsage:
    """How much of a limit is used.

    :ivar used: in the unit of the limit.
    """

    limit: Limit
    used: Decimal
    span: Span

    @property
    def is_reached(self) -> bool:
        """Whether the limit is used up."""
        return self.used >= self.limit.amount


class Admission:
    """Admits or refuses turns. Safe to create before a fork and to share between threads.

    :param window_history: a new one if omitted.
    :param clock: returns Unix seconds.
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

    def admit(
        self,
        user: User,
        model: str | None,
        *,
        unread: str = "",
        names_model: bool = True,
        credential: str = DEFAULT_CREDENTIAL,
        takes_slot: bool = True,
    ) -> Callable[[], None]:
        """Admit a turn, or refuse it.

        The database is queried only for users with limits, and if there is a reserve.

        :param model: the model that the request names; ``None`` if that is unknown.
        :param unread: why the model is unknown, as the end of a sentence about the request.
        :param names_model: whether requests to this endpoint name a model; if not, none has to be allowed.
        :param takes_slot: whether to call :meth:`take_slot`, too.
        :return: a function to call when the turn ends, however it ends; calling it again does nothing.
        :raises ModelNotAllowed: the user may not use the model.
        :raises UsageLimitReached: one of the user's limits, or the reserve, is reached.
        :raises TooManyConcurrent: the user has as many turns in progress as allowed.
        :raises StateError: the user has limits, and they cannot be checked.
        """
        if names_model or model is not None:
            _require_model(user, model, unread)
        has_reserve = not user.admin and any(self._reserves.values())
        if user.limits or has_reserve:
            self._require_quota(user, credential)
        return self.take_slot(user) if takes_slot else nothing_to_release

    def take_slot(self, user: User) -> Callable[[], None]:
        """Take one of a user's slots for concurrent turns, as :meth:`admit` does by default.

        :return: a function that releases the slot; calling it again does nothing.
        :raises TooManyConcurrent: the user has as many turns in progress as allowed.
        :raises StateError: the slots cannot be counted.
        """
        if user.max_concurrent is None:
            return nothing_to_release
        slot = self._slots.take(user.name, user.max_concurrent)
        if slot is None:
            raise TooManyConcurrent(
                f"You have {user.max_concurrent} turns in progress, the most allowed. Try again when one has ended.",
                retry_after_seconds=CONCURRENCY_RETRY_SECONDS,
            )
        return slot.release

    def limit_usage(self, user: User, *, credential: str = DEFAULT_CREDENTIAL) -> list[LimitUsage]:
        """Return how much of each of a user's limits is used now.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            states = self._window_history.states(connection, credential)
            return self._limit_usage(connection, user, states, self._clock())

    def _require_quota(self, user: User, credential: str) -> None:
        now = self._clock()
        try:
            with self._database.read() as connection:
                states = self._window_history.states(connection, credential)
                if not user.admin:
                    self._require_reserve(states, now)
                reached = [use for use in self._limit_usage(connection, user, states, now) if use.is_reached]
        except StateError as exc:
            if user.limits:
                message = "Your limits cannot be checked at the moment; try again."
                raise StateError(message, detail=exc.detail or exc.message, retry_after_seconds=5) from exc
            _log.warning("Cannot check the reserve, so it is not enforced: %s", exc.detail or exc)
            return
        if reached:
            raise _limit_reached(reached, now)

    def _limit_usage(
        self, connection: sa.Connection, user: User, states: Mapping[Period, WindowState], now: float
    ) -> list[LimitUsage]:
        spans = {limit.period: _span(limit.period, states, now) for limit in user.limits}
        used = {
            period: queries.user_window(connection, user.name, span.start, span.end, now=now)
            for period, span in spans.items()
        }
        return [
            LimitUsage(
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


def _require_model(user: User, model: str | None, unread: str) -> None:
    if not user.models or (model is not None and is_allowed(model, user.models)):
        return
    allowed = ", ".join(user.models)
    if model is None:
        reason = f": {unread}" if unread else ""
        raise ModelNotAllowed(f"Cannot determine the model of the request{reason}; you may use: {allowed}.")
    shown = model if len(model) <= _LONGEST_MODEL_SHOWN else model[:_LONGEST_MODEL_SHOWN] + "…"
    raise ModelNotAllowed(f"You may not use the model {shown!r}; you may use: {allowed}.")


def is_allowed(model: str, patterns: Iterable[str]) -> bool:
    """Return whether a model's name matches one of some shell patterns. Case matters."""
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def _span(period: Period, states: Mapping[Period, WindowState], now: float) -> Span:
    state = states.get(period)
    return limits.span(period, now, state.latest.cycle if state else None)


def _rate(period: Period, states: Mapping[Period, WindowState]) -> float | None:
    state = states.get(period)
    return state.percent_per_usd if state else None


def _limit_reached(reached: Iterable[LimitUsage], now: float) -> UsageLimitReached:
    """Return the error for the limit that resets last: retrying before that is pointless."""
    use = max(reached, key=lambda use: use.span.end)
    return UsageLimitReached(
        f"You have used up your limit of {use.limit}. It resets at {_utc(use.span.end)}.",
        advice=f"Your limit here is {use.limit}; ask the owner of the service for more",
        resets_at=use.span.end,
        resets_in_seconds=math.ceil(use.span.end - now),
    )


def _reserved(window: str, end: int, now: float) -> UsageLimitReached:
    return UsageLimitReached(
        f"The rest of the subscription's {window} is reserved for its owner. It resets at {_utc(end)}.",
        advice=f"The rest of the subscription's {window} is reserved for its owner",
        resets_at=end,
        resets_in_seconds=math.ceil(end - now),
    )


def _utc(time: int) -> str:
    return f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
