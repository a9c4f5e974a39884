"""Settles turns whose usage upstream reports later than their answer, such as responses in the background.

Until then such a turn is charged an estimate. The first answer that names its usage replaces that, regardless of
who fetches it; the turn stays that of the user who asked first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from queue import Empty, SimpleQueue

from ocm_wsgi.accounting import pricing
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.pricing import Override
from ocm_wsgi.accounting.recorder import Durability, OnRecorded
from ocm_wsgi.accounting.settled_turns import settlement
from ocm_wsgi.accounting.turn_record import Record
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.responses.usage import added

# How long a settlement may take before it goes to the spool, in seconds.
_SETTLE_SECONDS = 1.0


class Settlements:
    """Settles turns. Safe to create before a fork and to share between threads.

    :param prices: prices that the configuration sets, by model.
    """

    def __init__(self, ledger: Ledger, prices: Mapping[str, Override]) -> None:
        self._ledger = ledger
        self._prices = prices

    def settle_async(
        self, turn_id: str, outcome: Outcome, on_recorded: OnRecorded, *, family: Family = "responses"
    ) -> None:
        """Settle a turn, unless it is settled, without waiting. Call ``on_recorded`` once, from another thread.

        :param outcome: how the response or the job ended, with its usage.
        :param family: which of them it is.
        """
        record = self._record(turn_id, outcome, family)
        if record is None:
            on_recorded("database")
        else:
            self._ledger.submit(record, on_recorded, timeout_seconds=_SETTLE_SECONDS)

    def settle(self, turn_id: str, outcome: Outcome, *, family: Family = "responses") -> Durability:
        """Settle a turn as :meth:`settle_async` does, and wait until that is durable."""
        results: SimpleQueue[Durability] = SimpleQueue()
        self.settle_async(turn_id, outcome, results.put, family=family)
        try:
            return results.get(timeout=_SETTLE_SECONDS + 0.5)
        except Empty:
            return "memory"

    def _record(self, turn_id: str, outcome: Outcome, family: Family) -> Record | None:
        usage = outcome.usage
        if usage is None:
            return None
        model, tier = outcome.model or "", outcome.service_tier or "default"
        priced = pricing.price(
            model,
            usage,
            tier,
            _created_at(outcome),
            self._prices,
            family=family,
            tool_usage=outcome.tool_usage,
        )
        return settlement(
            turn_id,
            usage if outcome.tool_usage is None else added(usage, outcome.tool_usage.total),
            status=outcome.status,
            model=model,
            service_tier=tier,
            context_window=priced.context_window if priced else 0,
            cost_micro_usd=priced.cost_micro_usd if priced else None,
            error_code=outcome.error_code or "",
        )


def _created_at(outcome: Outcome) -> datetime:
    """Return when a response was created, which decides its price."""
    created_at = None if outcome.body is None else outcome.body.get("created_at")
    is_time = isinstance(created_at, (int, float)) and 0 < created_at < time.time()
    return datetime.fromtimestamp(created_at if is_time and created_at else time.time(), timezone.utc)
