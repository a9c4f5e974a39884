"""Whether what a turn will use counts towards its user's limits. A turn that would escape them is refused.

Nothing is charged by guess: a model without a price is not priced as another one, so that reports stay true. Limits in
requests hold for every turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ocm_wsgi.accounting import pricing
from ocm_wsgi.accounting.pricing import Override
from ocm_wsgi.errors import LimitUnmeasurable
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.quota.limits import Limit
from ocm_wsgi.users.user import User

# Endpoints whose models may be billed by other units than tokens.
_OTHER_UNITS: frozenset[Family] = frozenset({"images", "speech", "transcription", "video"})


def require_measured(
    user: User, model: str | None, family: Family, at: datetime, prices: Mapping[str, Override]
) -> None:
    """Require that the user's limits can measure a turn.

    :param model: the model that the request names; ``None`` if that is unknown, or none is chosen.
    :param family: how the endpoint reports usage.
    :param prices: the prices that the configuration sets.
    :raises LimitUnmeasurable: with a sentence for the user.
    """
    money = next((limit for limit in user.limits if limit.unit in ("usd", "percent")), None)
    tokens = next((limit for limit in user.limits if limit.unit == "tokens"), None)
    if money is not None:
        _require_price(money, model, family, at, prices)
    elif tokens is None or family not in _OTHER_UNITS:
        return
    elif not pricing.is_billed_by_tokens(model or "", at, prices, family=family):
        raise LimitUnmeasurable(
            f"Your limit of {tokens} does not cover {_named(model)}, which is not billed by tokens."
        )


def _require_price(
    limit: Limit, model: str | None, family: Family, at: datetime, prices: Mapping[str, Override]
) -> None:
    if pricing.has_price(model or "", at, prices, family=family):
        return
    raise LimitUnmeasurable(
        f"Your limit of {limit} does not cover {_named(model)}, which has no known price; `prices` can set one."
    )


def _named(model: str | None) -> str:
    return "this request" if model is None else f"the model {model[:60]!r}"
