"""A turn from its request to its record: observed as it passes, priced, and written down before its end is seen.

What is counted as a turn, how the pieces come together, and when the record is made. Reading the bytes is the
observer's, writing the ledger's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from ocm_wsgi.accounting import pricing
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.pricing import Override
from ocm_wsgi.accounting.recorder import Durability, OnRecorded
from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.observer import Observer, observer_for
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.responses.turn import MAX_REQUEST_ID_LENGTH, Outcome, Transport, Turn
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL

#: What makes a model work, and so costs something. A POST anywhere else does not.
TURN_ENDPOINTS = frozenset({"responses", "responses/compact", "chat/completions", "completions", "embeddings"})


def is_turn(endpoint: str) -> bool:
    """Whether a POST there asks for a turn.

    :param endpoint: the decoded path behind ``/v1/``.
    """
    return endpoint in TURN_ENDPOINTS


def nothing_to_release() -> None:
    """Release nothing, for a turn that holds nothing."""


@dataclass(frozen=True)
class TurnRequest:
    """What is known of a turn when its request has arrived.

    :ivar started_at: Unix seconds.
    :ivar started: the same moment on the monotonic clock.
    :ivar request_id: what the client calls it, or ``""``.
    :ivar release: ends what admission holds for the turn while it is under way; calling it again does nothing.
    """

    user: str
    endpoint: str
    facts: RequestFacts
    started_at: float
    started: float
    request_id: str = ""
    release: Callable[[], None] = nothing_to_release


class Accounting:
    """Opens turns. Safe to make before a fork and to share between threads.

    :param prices: the configuration's own, by model.
    :param window_history: is told how full upstream says its windows are.
    :param usages_export: the usage file, kept up to date from the first record on; ``None`` for none.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Override],
        window_history: WindowHistory,
        usages_export: UsagesExport | None = None,
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._window_history = window_history
        self._usages_export = usages_export

    def answered(self, request: TurnRequest, status: int, fields: Iterable[tuple[str, str]]) -> OpenTurn:
        """Open a turn when upstream's response to it has begun. It takes over the request's slot."""
        fields = list(fields)
        media_type = value_of(fields, "content-type") or ""
        observer = observer_for(
            status=status,
            media_type=media_type,
            content_encoding=value_of(fields, "content-encoding") or "",
            path=request.endpoint,
        )
        limits, week_start = rate_limits.read_fields(fields)
        if limits is not None:
            self.note(limits)
        transport: Transport = "sse" if "event-stream" in media_type else "json"
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

    def note(self, limits: RateLimits) -> None:
        """Take note of how full upstream says that its windows are."""
        now = time.time()
        self._ledger.note_rate_limits(DEFAULT_CREDENTIAL, _members(limits), now)
        self._window_history.note(DEFAULT_CREDENTIAL, limits, now)

    def record(self, open_turn: TurnUnderWay, outcome: Outcome) -> None:
        """Write a turn down. Returns when its record is safe, after about a second at the most."""
        self._ledger.record(self._turn(open_turn, outcome))
        self._start_usages_export()

    def record_async(self, open_turn: TurnUnderWay, outcome: Outcome, on_recorded: OnRecorded) -> None:
        """As ``record``, without waiting: ``on_recorded`` is called once, from another thread."""
        self._ledger.record_async(self._turn(open_turn, outcome), on_recorded)
        self._start_usages_export()

    def _start_usages_export(self) -> None:
        if self._usages_export is not None:
            self._usages_export.start()

    def _turn(self, open_turn: TurnUnderWay, outcome: Outcome) -> Turn:
        request = open_turn.request
        model = outcome.model or request.facts.model or ""
        tier = outcome.service_tier or request.facts.service_tier or "default"
        started_at = datetime.fromtimestamp(request.started_at, timezone.utc)
        priced = pricing.price(model, outcome.usage, tier, started_at, self._prices) if outcome.usage else None
        turn = open_turn.turn = Turn(
            id=open_turn.id,
            started_at=request.started_at,
            user=request.user,
            credential=DEFAULT_CREDENTIAL,
            model=model,
            service_tier=tier,
            context_window=priced.context_window if priced else 0,
            week_start=open_turn.week_start,
            usage=outcome.usage,
            cost_micro_usd=priced.cost_micro_usd if priced else None,
            transport=open_turn.transport,
            status=outcome.status,
            http_status=open_turn.status,
            first_byte_ms=_milliseconds(open_turn.answered - request.started),
            duration_ms=_milliseconds(time.monotonic() - request.started),
            request_id=open_turn.request_id,
            error_code=outcome.error_code or "",
        )
        return turn


class TurnUnderWay:
    """A turn that upstream works on.

    :ivar turn: what is recorded of it, as soon as that is known.
    :ivar answered: when the response began, on the monotonic clock.
    """

    def __init__(
        self, request: TurnRequest, *, status: int, transport: Transport, week_start: int | None, request_id: str
    ) -> None:
        # In the order of time, so that each turn's row goes to the end of the table's index.
        self.id = f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[12:]}"
        self.request = request
        self.status = status
        self.transport = transport
        self.week_start = week_start
        self.request_id = request_id
        self.turn: Turn | None = None
        self.answered = time.monotonic()


class OpenTurn(TurnUnderWay):
    """A turn whose response is passing. For one thread at a time.

    Its end is kept back until its record is safe. The end of a stream is its terminal event, which the observer
    finds. Of any other body it is the last octet, so one octet is always kept back until more has come. Whoever passes
    a response on gives every piece to :meth:`feed` and calls :meth:`finish` behind the last; whenever :attr:`is_due`
    then, it records the turn and sends what :meth:`release` gives before anything else.

    :ivar is_due: the turn has ended and must be recorded before more of it is sent.
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
        self._keeps_last = transport != "sse"
        self._kept_back = b""

    def feed(self, piece: bytes) -> bytes:
        """Observe what upstream sent; return what of it, and of what was kept back, may be sent at once."""
        sendable, outcome = self._observer.feed(piece)
        if outcome is not None and self._outcome is None:
            self._end(outcome)
            sent, self._kept_back = self._kept_back + piece[:sendable], piece[sendable:]
            return sent
        if self._keeps_last:
            piece = self._kept_back + piece
            piece, self._kept_back = piece[:-1], piece[-1:]
        return piece

    def finish(self) -> None:
        """Take note that the body has ended as its framing said. Once is enough, again does nothing."""
        if self._outcome is None:
            self._end(self._observer.finish(whole=True))
        self._keeps_last = False

    def record(self) -> None:
        """Record the turn as it ended, or as cut; returns when the record is safe."""
        if not self._is_recorded:
            self._accounting.record(self, self._recording())

    def record_async(self, on_recorded: OnRecorded) -> None:
        """As :meth:`record`, without waiting: ``on_recorded`` is called once, from another thread."""
        if not self._is_recorded:
            self._accounting.record_async(self, self._recording(), on_recorded)

    def release(self) -> bytes:
        """The record is safe: return what may be sent now. The next turn of this user may begin."""
        self.request.release()
        if self._keeps_last:
            piece, self._kept_back = self._kept_back[:-1], self._kept_back[-1:]
        else:
            piece, self._kept_back = self._kept_back, b""
        return piece

    def observed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass a response's body on, its end only when the record of the turn is safe."""
        for piece in pieces:
            if sendable := self.feed(piece):
                yield sendable
            if self.is_due:
                self.record()
                if kept_back := self.release():
                    yield kept_back
        self.finish()
        self.record()
        if kept_back := self.release():
            yield kept_back

    def close(self) -> None:
        """Let go of the slot, and record the turn as cut unless its end was recorded."""
        self.request.release()
        self.record()

    def close_async(self) -> None:
        """As :meth:`close`, without waiting."""
        self.request.release()
        self.record_async(_nobody_waits)

    def _end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.is_due = True

    def _recording(self) -> Outcome:
        self._is_recorded = True
        self.is_due = False
        return self._outcome or self._observer.finish(whole=False)


# Most responses say what the one before has said.
@lru_cache(maxsize=64)
def _members(limits: RateLimits) -> Mapping[str, Any]:
    return asdict(limits)


def _nobody_waits(_place: Durability) -> None:
    """The turn was cut: nobody is left to be told."""


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
