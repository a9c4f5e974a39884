"""What a turn used and cost, from what upstream reported and what the request ordered. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ocm_wsgi.accounting import pricing
from ocm_wsgi.accounting.media_estimates import completed_usage, is_media
from ocm_wsgi.accounting.pricing import Override, Priced
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.request import RequestFacts
from ocm_wsgi.protocol.responses.turn import Outcome, Usage
from ocm_wsgi.protocol.responses.usage import added


@dataclass(frozen=True)
class TurnCost:
    """What a turn used and cost.

    :ivar model: the model that responded, else the requested one, else ``""``.
    :ivar service_tier: ``default`` unless the request or the response says otherwise.
    :ivar usage: with that of hosted tools; ``None`` if it is unknown.
    :ivar is_estimated: whether the usage is our estimate.
    :ivar priced: ``None`` if there is no usage, or something in it has no price.
    """

    model: str
    service_tier: str
    usage: Usage | None
    is_estimated: bool
    priced: Priced | None


def turn_cost(
    outcome: Outcome,
    facts: RequestFacts,
    family: Family,
    *,
    http_status: int,
    at: datetime,
    prices: Mapping[str, Override],
    estimate: Callable[[Outcome], Usage | None],
) -> TurnCost:
    """Return what a turn used and cost.

    :param http_status: of the response.
    :param at: when the request was made.
    :param prices: that the configuration sets, by model.
    :param estimate: returns the usage to charge if upstream did not report any.
    """
    requested = facts.model or ""
    model = outcome.model or requested
    tier = outcome.service_tier or facts.service_tier or "default"
    if is_media(family):
        usage, is_estimated = completed_usage(
            family,
            outcome,
            facts.media,
            http_status=http_status,
            by_tokens=lambda: pricing.is_billed_by_tokens(model, at, prices, family=family),
        )
    else:
        usage = outcome.usage if outcome.usage is not None else estimate(outcome)
        is_estimated = usage is not outcome.usage
    if usage is None:
        return TurnCost(model, tier, None, False, None)

    def price(name: str) -> Priced | None:
        return pricing.price(name, usage, tier, at, prices, family=family, tool_usage=outcome.tool_usage)

    # Upstream may name a variant of the requested model that the data does not have.
    priced = price(model) or (price(requested) if requested != model else None)
    total = usage if outcome.tool_usage is None else added(usage, outcome.tool_usage.total)
    return TurnCost(model, tier, total, is_estimated, priced)
