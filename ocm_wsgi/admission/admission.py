"""Decides whether a user may run a turn now: allowed models, limits, the owner's reserve, and concurrency.

Admission is decided before a turn is sent upstream, by the usage of turns that have ended, and by what those in
progress are expected to use (``reservations``). A turn in progress is never cut because a limit is reached.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.turn_accounting import nothing_to_release
from ocm_wsgi.accounting.window_history import WindowHistory, WindowState
from ocm_wsgi.admission.concurrency import Slots
from ocm_wsgi.admission.expectations import Expectations
from ocm_wsgi.admission.measurability import require_measurable
from ocm_wsgi.admission.measured_turns import require_measured
from ocm_wsgi.admission.measures import Measure, pool_measure
from ocm_wsgi.admission.reservations import Reservation, Reservations
from ocm_wsgi.admission.waiting import WaitingRequests
from ocm_wsgi.errors import ModelNotAllowed, StateError, TooManyConcurrent, UsageLimitReached
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.quota import limits
from ocm_wsgi.quota.limits import MEASURED_BY, MEASURES, PERIOD_NAMES, Limit, Period, Span, Totals
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

    The database is queried only for users with limits, and if there is a reserve; turns in progress are counted only
    for users with limits, and for those whose concurrency is limited.

    :param window_history: a new one if omitted.
    :param clock: returns Unix seconds.
    :param is_api_key: returns whether an account's credential is an API key, which has no subscription.
    :param weight_of: returns how much an account's plan allows, compared with those of the others in its pool.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        window_history: WindowHistory | None = None,
        clock: Callable[[], float] = time.time,
        *,
        is_api_key: Callable[[str], bool] = lambda _tag: False,
        weight_of: Callable[[str], float] = lambda _tag: 1.0,
    ) -> None:
        self._database = database
        self._window_history = window_history or WindowHistory(database)
        self._clock = clock
        self._is_api_key = is_api_key
        self._prices = config.prices
        self._slots = Slots(config.state_path / "slots")
        self._expectations = Expectations(database)
        self._reservations = Reservations(config.state_path / "reservations")
        #: Requests of every kind that occupy a thread of this process.
        self.waiting = WaitingRequests()
        self._reserves: Mapping[Period, int] = {"5h": config.reserve_5h, "week": config.reserve_weekly}
        self._caps: Mapping[str, Mapping[Period, int]] = {
            account.tag: {"5h": account.cap_5h, "week": account.cap_weekly}
            for account in config.accounts
            if account.cap_5h is not None and account.cap_weekly is not None
        }
        self._first_credential = config.first_credential
        self._members = {pool.tag: pool.members for pool in config.pools}
        self._weight_of = weight_of

    def admit(
        self,
        user: User,
        model: str | None,
        *,
        unread: str = "",
        names_model: bool = True,
        family: Family = "responses",
        input_tokens: int = 0,
        credential: str | None = None,
        takes_slot: bool = True,
    ) -> Callable[[], None]:
        """Admit a turn, or refuse it.

        :param model: the model that the request names; ``None`` if that is unknown.
        :param unread: why the model is unknown, as the end of a sentence about the request.
        :param names_model: whether requests to this endpoint name a model; if not, none has to be allowed.
        :param family: how the endpoint reports what the turn uses.
        :param input_tokens: of the request, estimated.
        :param credential: the tag of the account that serves the turn; by default that of the user.
        :param takes_slot: whether to call :meth:`take_slot`, too.
        :return: a function to call once the turn has ended, however it ended, and is recorded; calling it again does
            nothing.
        :raises ModelNotAllowed: the user may not use the model.
        :raises LimitUnmeasurable: a limit is a percentage of a subscription, and there is none; or a limit would not
            count what the turn uses.
        :raises UsageLimitReached: one of the user's limits, the reserve, or the account's cap is reached.
        :raises TooManyConcurrent: the user has as many turns in progress as allowed, or these may use up a limit.
        :raises StateError: the user has limits, and they cannot be checked.
        """
        if names_model or model is not None:
            _require_model(user, model, unread)
        credential = credential or self._credential_of(user)
        self._require_measured(user, model, family, credential)
        has_reserve = credential in self._caps or (not user.admin and any(self._reserves.values()))
        if not (user.limits or has_reserve or user.max_concurrent):
            return nothing_to_release
        with ExitStack() as undo:
            if takes_slot and user.max_concurrent is not None:
                undo.callback(self.take_slot(user))
            if user.limits:
                undo.callback(self._reserve(user, model, input_tokens, credential))
            elif has_reserve:
                self._require_quota(user, (), credential)
            return undo.pop_all().close

    def _credential_of(self, user: User) -> str:
        return user.credential or self._first_credential

    def _require_measured(self, user: User, model: str | None, family: Family, credential: str) -> None:
        if any(limit.unit == "percent" for limit in user.limits):
            require_measurable(user.limits, is_api_key=self._is_api_key(credential))
        if user.limits:
            now = datetime.fromtimestamp(self._clock(), timezone.utc)
            require_measured(user, model, family, now, self._prices)

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

    def _reserve(self, user: User, model: str | None, input_tokens: int, credential: str) -> Callable[[], None]:
        """Register a turn of a user with limits, and check these."""
        expected = self._expected(user, model, input_tokens)
        # In this order: a turn that ends now is recorded before it is released, and so is seen at least once.
        slot, others = self._reservations.take(user.name, Reservation(self._clock(), expected))
        try:
            self._require_quota(user, [*others, *self._in_background(user, credential)], credential)
        except BaseException:
            slot.release()
            raise
        return slot.release

    def _in_background(self, user: User, credential: str) -> list[Reservation]:
        """Return what may still be charged for a user's responses in the background, which only an API key has."""
        if not self._is_api_key(credential):
            return []
        with _checking(user):
            return [Reservation(*each) for each in self._expectations.expected_in_background(user.name)]

    def _expected(self, user: User, model: str | None, input_tokens: int) -> Totals:
        if all(limit.unit == "requests" for limit in user.limits):
            return Totals(1)
        with _checking(user):
            return self._expectations.expected(user.name, model, input_tokens)

    def limit_usage(self, user: User) -> list[LimitUsage]:
        """Return how much of each of a user's limits is used now.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            measures = self._measures(connection, self._credential_of(user))
            return self._limit_usage(connection, user, measures, self._clock())

    def _require_quota(self, user: User, others: Sequence[Reservation], credential: str) -> None:
        now = self._clock()
        try:
            with _checking(user), self._database.read() as connection:
                if credential not in self._members:
                    states = self._window_history.states(connection, credential)
                    self._require_cap(states, credential, now)
                    if not user.admin:
                        self._require_reserve(states, now)
                measures = self._measures(connection, credential)
                uses = self._limit_usage(connection, user, measures, now)
        except StateError as exc:
            if user.limits:
                raise
            _log.warning("Cannot check the reserve, so it is not enforced: %s", exc.detail or exc)
            return
        reached = [use for use in uses if use.is_reached]
        if reached:
            raise _limit_reached(reached, now)
        for use in uses:
            _require_room(use, others, _rate(MEASURED_BY[use.limit.period], measures))

    def _limit_usage(
        self, connection: sa.Connection, user: User, measures: Mapping[Period, Measure], now: float
    ) -> list[LimitUsage]:
        spans = {limit.period: _span(limit.period, measures, now) for limit in user.limits}
        used = {
            period: queries.user_window(connection, user.name, span.start, span.end, now=now)
            for period, span in spans.items()
        }
        return [
            LimitUsage(
                limit,
                limits.used(limit, used[limit.period], _rate(MEASURED_BY[limit.period], measures)),
                spans[limit.period],
            )
            for limit in user.limits
        ]

    def _measures(self, connection: sa.Connection, credential: str) -> Mapping[Period, Measure]:
        """Return what measures limits: the windows of an account, or those of the accounts of a pool as one."""
        members = self._members.get(credential)
        if members is None:
            states = self._window_history.states(connection, credential)
            return {period: Measure(state.percent_per_usd, state.latest.cycle) for period, state in states.items()}
        weights = {tag: self._weight_of(tag) for tag in members}
        found = {tag: self._window_history.states(connection, tag) for tag in members}
        return {period: pool_measure(weights, {tag: found[tag].get(period) for tag in members}) for period in MEASURES}

    def _require_cap(self, states: Mapping[Period, WindowState], credential: str, now: float) -> None:
        for period, cap in self._caps.get(credential, {}).items():
            state = states.get(period)
            if state is not None and now < state.latest.cycle.end and state.latest.used_percent >= cap:
                raise _used_up(PERIOD_NAMES[period], state.latest.cycle.end, now)

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


@contextmanager
def _checking(user: User) -> Iterator[None]:
    try:
        yield
    except StateError as exc:
        if not user.limits:
            raise
        message = "Your limits cannot be checked at the moment; try again."
        raise StateError(message, detail=exc.detail or exc.message, retry_after_seconds=5) from exc


def _require_room(use: LimitUsage, others: Iterable[Reservation], percent_per_usd: float | None) -> None:
    """Refuse a turn if those in progress may use up a limit. It can be retried: they may use less."""
    within = [other.expected for other in others if other.started_at >= use.span.start]
    expected = Totals(
        sum(totals.requests for totals in within),
        sum(totals.tokens for totals in within),
        sum(totals.cost_micro_usd for totals in within),
    )
    if use.limit.unit == "percent" and percent_per_usd is None and within:
        # How much they use is unknown until upstream has reported its window.
        sentence = (
            f"How much of your limit of {use.limit} a turn uses is not known yet, so only one can be in progress."
        )
    elif within and use.used + limits.used(use.limit, expected, percent_per_usd) >= use.limit.amount:
        sentence = f"Your turns in progress may use up the rest of your limit of {use.limit}."
    else:
        return
    raise TooManyConcurrent(f"{sentence} Try again when one has ended.", retry_after_seconds=CONCURRENCY_RETRY_SECONDS)


def _span(period: Period, measures: Mapping[Period, Measure], now: float) -> Span:
    measure = measures.get(period)
    return limits.span(period, now, measure.cycle if measure else None)


def _rate(period: Period, measures: Mapping[Period, Measure]) -> float | None:
    measure = measures.get(period)
    return measure.percent_per_usd if measure else None


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


def _used_up(window: str, end: int, now: float) -> UsageLimitReached:
    return UsageLimitReached(
        f"The subscription's {window} is used up, as far as it may be used here. It resets at {_utc(end)}.",
        advice=f"The subscription's {window} is used up, as far as it may be used here",
        resets_at=end,
        resets_in_seconds=math.ceil(end - now),
    )


def _utc(time: int) -> str:
    return f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
