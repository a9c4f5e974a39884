"""Records the turns whose client left after upstream had got the request, and before its response had begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

from ocm_wsgi.accounting import pricing
from ocm_wsgi.accounting.pricing import Override
from ocm_wsgi.accounting.turn_accounting import Accounting, TurnInProgress, TurnRequest
from ocm_wsgi.protocol.responses.turn import Outcome


class AbandonedTurn(TurnInProgress):
    """A turn that upstream was working on when its client left. A response that is not streamed begins at its end."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__(request, status=200, transport="json", week_start=None, request_id=request.request_id)
        self.was_left = True

    @property
    def has_begun(self) -> bool:
        """Whether upstream has begun to respond."""
        return False


def record_abandoned(accounting: Accounting, request: TurnRequest, prices: Mapping[str, Override]) -> None:
    """Charge an abandoned turn an estimate, and wait until that is durable, which takes about a second at most."""
    model = request.facts.model or ""
    at = datetime.fromtimestamp(request.started_at, timezone.utc)
    if pricing.rates_for(model, 0, None, at, prices) is None:
        # Upstream has not confirmed that there is such a model: names that clients invent are not kept.
        request = replace(request, facts=replace(request.facts, model=None))
    accounting.record(AbandonedTurn(request), Outcome("cut"))
