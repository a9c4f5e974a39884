"""The turns of one WebSocket: admitted when requested, recorded when they end."""

from __future__ import annotations

import time
from collections.abc import Callable

from ocm_wsgi.accounting.recorder import Durability
from ocm_wsgi.accounting.turn_accounting import Accounting, TurnInProgress, TurnRequest, nothing_to_release
from ocm_wsgi.admission.admission import Admission
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.websocket.handshake import ENDPOINT
from ocm_wsgi.protocol.websocket.message_gate import HeldMessage
from ocm_wsgi.protocol.websocket.session import TurnEnded
from ocm_wsgi.telemetry import counters
from ocm_wsgi.telemetry.live_requests import TrackedTurn, Tracker
from ocm_wsgi.users.user import User


class WebSocketTurn(TurnInProgress):
    """A turn that was requested over a WebSocket.

    :param on_end: called when the turn is no longer in progress.
    :ivar is_prewarm: whether the turn generates nothing.
    """

    def __init__(
        self, request: TurnRequest, on_end: Callable[[], None], *, week_start: int | None, is_prewarm: bool
    ) -> None:
        super().__init__(
            request, status=200, transport="websocket", week_start=week_start, request_id=request.request_id
        )
        self.is_prewarm = is_prewarm
        self._on_end = on_end

    def release(self) -> None:
        """End the turn's progress, so that the user's next turn may begin."""
        self.request.release()
        self._on_end()


class WebSocketTurns:
    """Admits and records the turns of one WebSocket.

    :param authenticate: returns the socket's user as of now, or raises if they are refused.
    :param path: path of the handshake.
    :param request_id: the client's name for its handshake, or ``""``.
    :param week_start: start of the subscription's week, if the handshake reported it.
    :param track_turn: called at the start of each turn.
    """

    def __init__(
        self,
        authenticate: Callable[[], User],
        admission: Admission,
        accounting: Accounting,
        *,
        user: str,
        path: str,
        request_id: str,
        week_start: int | None,
        track_turn: Tracker,
    ) -> None:
        self._authenticate = authenticate
        self._admission = admission
        self._accounting = accounting
        self._user = user
        self._path = path
        self._track_turn = track_turn
        self._request_id = request_id
        self._week_start = week_start

    def admit(self, message: HeldMessage) -> WebSocketTurn | None:
        """Read a message and admit the turn that it requests, if any. This may block for a while.

        :return: a turn that counts as in progress until :meth:`record`, or ``None`` if the message requests none.
        :raises OcmError: the turn is refused.
        """
        arrived = time.monotonic()
        create = message.read()
        if create is None:
            return None
        release = self._admission.admit(self._authenticate(), create.facts.model)
        return self._turn(create.facts, arrived, release, is_prewarm=create.is_prewarm)

    def note(self, limits: RateLimits) -> None:
        """Note the rate limits that upstream reported."""
        if limits.week_start is not None:
            self._week_start = limits.week_start
        self._accounting.note_rate_limits(limits)

    def record(self, end: TurnEnded[WebSocketTurn], on_recorded: Callable[[], None]) -> bool:
        """Record a turn and release it, without waiting.

        :param on_recorded: called once from another thread, when the record is safe.
        :return: whether there is a record to wait for. Upstream does not bill a prewarm whose usage it does not report.
        """
        turn = end.turn or self._turn(RequestFacts(), time.monotonic(), nothing_to_release, is_prewarm=False)
        if turn.is_prewarm and end.outcome.usage is None:
            turn.release()
            return False

        def recorded(_place: Durability) -> None:
            turn.release()
            on_recorded()

        turn.status = end.http_status
        if turn.week_start is None:
            turn.week_start = self._week_start
        self._accounting.record_async(turn, end.outcome, recorded)
        if turn.turn is not None:
            counters.count_turn(turn.turn)
        return True

    def _turn(
        self, facts: RequestFacts, arrived: float, release: Callable[[], None], *, is_prewarm: bool
    ) -> WebSocketTurn:
        started_at = time.time() - (time.monotonic() - arrived)
        request = TurnRequest(self._user, ENDPOINT, facts, started_at, arrived, self._request_id, release)
        on_end = self._track_turn(TrackedTurn(self._user, self._path, facts.model or "", arrived))
        return WebSocketTurn(request, on_end, week_start=self._week_start, is_prewarm=is_prewarm)
