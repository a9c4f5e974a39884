"""Accounting of a turn: observes its response as it passes, prices it, and records it before the client gets its end.

Decides when it is recorded. The observer parses the bytes, and the ledger writes the record.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ocm_wsgi.accounting.estimates import Observed, estimated_usage
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.pricing import Override
from ocm_wsgi.accounting.recorder import Durability, OnRecorded, ignore_durability
from ocm_wsgi.accounting.turn_costs import turn_cost
from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.errors import StateError
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.error_codes import code_in_fields
from ocm_wsgi.protocol.responses.observer import Observer, is_event_stream, observer_for
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.responses.turn import MAX_REQUEST_ID_LENGTH, Outcome, Transport, Turn, Usage
from ocm_wsgi.protocol.responses.withheld_end import WithheldEnd
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

_log = logging.getLogger(__name__)


def nothing_to_release() -> None:
    """Do nothing: the ``release`` of a turn that holds nothing."""


@dataclass(frozen=True)
class TurnRequest:
    """A turn as known when its request has arrived.

    :ivar started_at: Unix seconds.
    :ivar started: the same moment on the monotonic clock.
    :ivar request_id: the client's ID for the request, or ``""``.
    :ivar release: releases what admission reserved for the turn; calling it again does nothing.
    :ivar family: how the endpoint reports the turn's usage.
    :ivar input_tokens: estimate of the input, with what upstream adds of an earlier response or conversation.
    :ivar reads_on: whether to read the answer on if the client leaves, because the user has limits.
    :ivar credential: the tag of the account that serves the turn.
    """

    user: str
    endpoint: str
    facts: RequestFacts
    started_at: float
    started: float
    request_id: str = ""
    release: Callable[[], None] = nothing_to_release
    family: Family = "responses"
    input_tokens: int = 0
    reads_on: bool = False
    credential: str = DEFAULT_CREDENTIAL


class Accounting:
    """Opens and records turns. Safe to create before a fork and to share between threads.

    :param prices: prices that the configuration sets, by model.
    :param window_history: notes how much of its windows upstream reports as used.
    :param usages_exports: each updates a usage file from the first record on.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Override],
        window_history: WindowHistory,
        usages_exports: Sequence[UsagesExport] = (),
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._window_history = window_history
        self._usages_exports = usages_exports

    def open(self, request: TurnRequest, status: int, fields: Iterable[tuple[str, str]]) -> OpenTurn:
        """Open a turn when upstream's response has begun. The open turn calls the request's ``release``."""
        fields = list(fields)
        media_type = value_of(fields, "content-type") or ""
        observer = observer_for(
            status=status,
            media_type=media_type,
            content_encoding=value_of(fields, "content-encoding") or "",
            family=request.family,
            error_code=code_in_fields(fields) if status >= 400 else None,
        )
        limits, week_start = rate_limits.read_fields(fields)
        if limits is not None:
            known = self.note_rate_limits(limits, request.credential)
            # A response about another limit alone says nothing about the week, which continues.
            week_start = week_start or known.week_at(request.started_at)
        transport: Transport = "sse" if is_event_stream(media_type, family=request.family) else "json"
        request_id = value_of(fields, "x-request-id") or request.request_id
        return OpenTurn(
            self,
            request,
            observer,
            status=status,
            transport=transport,
            week_start=week_start,
            request_id=request_id[:MAX_REQUEST_ID_LENGTH],
        )

    def continued_tokens(self, user: str, facts: RequestFacts) -> int:
        """Return an estimate of the input that upstream adds to a request: at most the largest turn of its user.

        Which turn a request continues is not known. If the state database cannot be read, 0 is returned.
        """
        if not facts.continues:
            return 0
        try:
            return self._ledger.largest_turn(user)
        except StateError as exc:
            _log.warning("Cannot estimate the input of a turn: %s", exc.detail or exc)
            return 0

    def note_rate_limits(self, limits: RateLimits, credential: str) -> RateLimits:
        """Note the rate limits that upstream has reported, and return all that are known in this process."""
        now = time.time()
        self._window_history.note(credential, limits, now)
        return self._ledger.note_rate_limits(credential, limits, now).limits

    def record(self, open_turn: TurnInProgress, outcome: Outcome) -> None:
        """Record a turn, and wait until that is durable, which takes about a second at most."""
        self._ledger.record(self._turn(open_turn, outcome))
        self._start_usages_exports()

    def record_async(self, open_turn: TurnInProgress, outcome: Outcome, on_recorded: OnRecorded) -> None:
        """Record a turn without waiting, and call ``on_recorded`` once, from another thread."""
        self._ledger.record_async(self._turn(open_turn, outcome), on_recorded)
        self._start_usages_exports()

    def _start_usages_exports(self) -> None:
        for export in self._usages_exports:
            export.start()

    def _turn(self, open_turn: TurnInProgress, outcome: Outcome) -> Turn:
        request = open_turn.request
        cost = turn_cost(
            outcome,
            request.facts,
            request.family,
            http_status=open_turn.status,
            at=datetime.fromtimestamp(request.started_at, timezone.utc),
            prices=self._prices,
            estimate=open_turn.estimated_usage,
        )
        turn = open_turn.turn = Turn(
            id=open_turn.id,
            started_at=request.started_at,
            user=request.user,
            credential=request.credential,
            model=cost.model,
            service_tier=cost.service_tier,
            context_window=cost.priced.context_window if cost.priced else 0,
            week_start=open_turn.week_start,
            usage=cost.usage,
            cost_micro_usd=cost.priced.cost_micro_usd if cost.priced else None,
            transport=open_turn.transport,
            status="in_progress" if _goes_on(open_turn, outcome) else outcome.status,
            http_status=open_turn.status if open_turn.has_begun or open_turn.status >= 400 else 0,
            first_byte_ms=_milliseconds(open_turn.response_started - request.started),
            duration_ms=_milliseconds(time.monotonic() - request.started),
            request_id=open_turn.request_id,
            error_code=outcome.error_code or "",
            estimated=cost.is_estimated,
        )
        return turn


class TurnInProgress:
    """A turn that upstream is processing.

    :ivar turn: as it is recorded, once that is known.
    :ivar response_started: when the response began, on the monotonic clock.
    :ivar was_left: whether the client has left before the end.
    """

    def __init__(
        self, request: TurnRequest, *, status: int, transport: Transport, week_start: int | None, request_id: str
    ) -> None:
        # Sorted by time, so that each turn's row is appended at the end of the table's index.
        self.id = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
        self.request = request
        self.status = status
        self.transport = transport
        self.week_start = week_start
        self.request_id = request_id
        self.turn: Turn | None = None
        self.response_started = time.monotonic()
        self.was_left = False

    @property
    def has_begun(self) -> bool:
        """Whether upstream has begun to respond."""
        return True

    def output_tokens(self) -> int:
        """Return an estimate of the output that passed, in tokens: 0 where no response is observed."""
        return 0

    def estimated_usage(self, outcome: Outcome) -> Usage | None:
        """Return the usage to charge if upstream did not report any, or ``None``."""
        # The head of a JSON body arrives when the model has finished.
        began = self.request.started if self.transport == "json" else self.response_started
        observed = Observed(
            http_status=self.status,
            family=self.request.family,
            input_tokens=self.request.input_tokens,
            output_tokens=0 if self.status >= 400 else self.output_tokens(),
            has_begun=self.has_begun,
            was_left=self.was_left,
            seconds=time.monotonic() - began,
        )
        return estimated_usage(outcome, observed)


class OpenTurn(TurnInProgress):
    """A turn whose response is being relayed. For one thread at a time.

    The end of the response is withheld until the turn is recorded durably. The end of a stream is its terminal event,
    which the observer finds. The end of any other body is its last byte, so one byte is always withheld until more has
    arrived. The relay passes every piece to :meth:`feed` and calls :meth:`finish` after the last one. Whenever
    :attr:`is_due` is set after that, it records the turn, and sends what :meth:`release` returns before anything else.

    :ivar is_due: whether the turn has ended and must be recorded before more of it is sent.
    """

    def __init__(
        self,
        accounting: Accounting,
        request: TurnRequest,
        observer: Observer,
        *,
        status: int,
        transport: Transport,
        week_start: int | None,
        request_id: str,
    ) -> None:
        super().__init__(request, status=status, transport=transport, week_start=week_start, request_id=request_id)
        self.is_due = False
        self._accounting = accounting
        self._observer = observer
        self._outcome: Outcome | None = None
        self._is_recorded = False
        self._withheld = WithheldEnd(is_stream=transport == "sse")

    @property
    def outcome(self) -> Outcome | None:
        """How the turn ended; ``None`` as long as its end has not been found."""
        return self._outcome

    def feed(self, piece: bytes) -> bytes:
        """Observe a piece of the body. Return what may be sent now, of this piece and of what was withheld before."""
        sendable, outcome = self._observer.feed(piece)
        if outcome is not None and self._outcome is None:
            self._end(outcome)
            return self._withheld.hold_from(piece, sendable)
        return self._withheld.pass_through(piece)

    def finish(self) -> None:
        """Note that the body is complete according to its framing. Calling this again does nothing."""
        if self._outcome is None:
            self._end(self._observer.finish(complete=True))
        self._withheld.finish()

    def record(self) -> None:
        """Record the turn as it ended, or as cut, and wait until that is durable. The user's next turn may then begin.

        Not before: in between, the turn would count towards no limit.
        """
        if not self._is_recorded:
            try:
                self._accounting.record(self, self._recording())
            finally:
                self.request.release()

    def record_async(self, on_recorded: OnRecorded) -> None:
        """Record the turn as :meth:`record` does, without waiting; call ``on_recorded`` once, from another thread."""
        if self._is_recorded:
            return

        def recorded(durability: Durability) -> None:
            self.request.release()
            on_recorded(durability)

        try:
            self._accounting.record_async(self, self._recording(), recorded)
        except BaseException:
            self.request.release()
            raise

    def release(self) -> bytes:
        """Return what may be sent once the record is durable."""
        return self._withheld.release()

    def observed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a response's body, and its end only once the turn is recorded durably."""
        for piece in pieces:
            if sendable := self.feed(piece):
                yield sendable
            if self.is_due:
                self.record()
                if withheld := self.release():
                    yield withheld
        self.finish()
        self.record()
        if withheld := self.release():
            yield withheld

    def output_tokens(self) -> int:
        """Return an estimate of the output that passed, in tokens."""
        return self._observer.output_tokens()

    def client_left(self) -> bool:
        """Note that the client left before the end. Return whether to read the answer on, for its true usage."""
        self.was_left = True
        return self.request.reads_on and self.status < 400 and self._outcome is None

    def close(self) -> None:
        """Record the turn as cut, unless its end was recorded."""
        self.record()

    def close_async(self) -> None:
        """Close the turn as :meth:`close` does, without waiting."""
        self.record_async(ignore_durability)

    def _end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.is_due = True

    def _recording(self) -> Outcome:
        self._is_recorded = True
        self.is_due = False
        return self._outcome or self._observer.finish(complete=False)


def _goes_on(open_turn: TurnInProgress, outcome: Outcome) -> bool:
    """Return whether a turn is a response in the background, which does not end when its stream is cut."""
    return outcome.status == "cut" and open_turn.has_begun and open_turn.request.facts.is_background


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
