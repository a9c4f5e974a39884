"""Prices turns at OpenAI's published prices. Pure; no I/O, and no network: the data is part of ``genai-prices``.

A model that the data does not contain has no price; it is never priced as another model. Prices are not guessed either:
if the data has none for a service tier, the model's standard price applies, and ``Priced.service_tier`` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Protocol

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, TieredPrices

from ocm_wsgi.protocol.responses.turn import Usage

# Names of the tier with the standard price. ``scale`` is paid in advance and has no price of its own.
_STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "scale"})
_PER_TOKEN = frozenset({"input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok"})
# Searches are priced per call, and usage does not count them, so no cost includes them.
_PER_CALL = frozenset({"web_searches_kcount", "storage_searches_kcount"})
_SNAPSHOT_DATE = re.compile(r"-20\d\d-\d\d-\d\d$")


class Override(Protocol):
    """A model's price as set by the owner: USD per million tokens, regardless of tier and length."""

    @property
    def input(self) -> Decimal: ...

    @property
    def cached_input(self) -> Decimal: ...

    @property
    def output(self) -> Decimal: ...


@dataclass(frozen=True)
class Rates:
    """The rates of one request: USD per million tokens, which is the same as micro-dollars per token.

    :ivar context_window: the longest input, in tokens, that these rates apply to; 0 if prices do not depend on it.
    :ivar service_tier: the tier of these rates: ``default``, unless the data has rates for the requested tier.
    """

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    context_window: int = 0
    service_tier: str = "default"


@dataclass(frozen=True)
class Priced:
    """The cost of one turn.

    :ivar cost_micro_usd: millionths of a US dollar, computed exactly and rounded once, half to even.
    :ivar context_window: see ``Rates``.
    :ivar service_tier: see ``Rates``.
    """

    cost_micro_usd: int
    context_window: int
    service_tier: str


def price(
    model: str,
    usage: Usage,
    service_tier: str | None,
    at: datetime,
    overrides: Mapping[str, Override] | None = None,
) -> Priced | None:
    """Return the cost of a turn, or ``None`` for a model without a price.

    :param model: as named by upstream, else as requested. A dated snapshot that is not listed itself has the price of
        its model.
    :param at: when the request was made; in UTC if it has no time zone. Prices change by date.
    :param overrides: prices by model, for one snapshot or for all of them; they take precedence over the data.
    """
    rates = rates_for(model, usage.input_tokens, service_tier, at, overrides)
    if rates is None:
        return None
    fresh = max(usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens, 0)
    cost = (
        fresh * rates.input
        + usage.cached_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.output_tokens * rates.output
    )
    return Priced(int(cost.to_integral_value(ROUND_HALF_EVEN)), rates.context_window, rates.service_tier)


def load() -> None:
    """Load the data now. It takes some 100 ms, which would otherwise delay the first turn and all others with it."""
    get_snapshot()


def rates_for(
    model: str,
    input_tokens: int,
    service_tier: str | None,
    at: datetime,
    overrides: Mapping[str, Override] | None = None,
) -> Rates | None:
    """Return the rates of a request with ``input_tokens``, or ``None`` for a model without a price."""
    override = _override(model, overrides) if overrides else None
    if override is not None:
        return Rates(override.input, override.cached_input, override.input, override.output)
    tariff = _tariff(model, (service_tier or "").strip().lower(), at.replace(second=0, microsecond=0))
    return None if tariff is None else tariff.rates(input_tokens)


def _override(model: str, overrides: Mapping[str, Override]) -> Override | None:
    return overrides.get(model) or overrides.get(_SNAPSHOT_DATE.sub("", model))


@dataclass(frozen=True)
class _Tariff:
    """The data's prices for a model, tier and time, for inputs of any length.

    :ivar max_input: the longest input that the model accepts, in tokens.
    """

    input: Decimal | TieredPrices
    cached_input: Decimal | TieredPrices
    cache_write: Decimal | TieredPrices
    output: Decimal | TieredPrices
    max_input: int
    service_tier: str

    def rates(self, input_tokens: int) -> Rates:
        """Return the rates of a request with ``input_tokens``."""
        return Rates(
            _rate(self.input, input_tokens),
            _rate(self.cached_input, input_tokens),
            _rate(self.cache_write, input_tokens),
            _rate(self.output, input_tokens),
            _context_window(self.input, self.max_input, input_tokens),
            self.service_tier,
        )


# Most turns have one of a few models and tiers.
@lru_cache(maxsize=1024)
def _tariff(model: str, tier: str, minute: datetime) -> _Tariff | None:
    """Return the prices of a model of OpenAI's, or ``None`` for one without a price.

    A model priced by more than text tokens counts as one: usage does not distinguish audio and images.

    :param minute: the time, rounded down to the minute; prices change at whole minutes.
    """
    known = _find(model)
    if known is None:
        return None
    if tier in _STANDARD_TIERS or not _has_tier(known, tier, minute):
        tier = "default"
    prices = known.get_prices(minute, {"service_tier": tier})
    named = {name for name, value in vars(prices).items() if value is not None and name not in _PER_CALL}
    input_price, output_price = prices.input_mtok, prices.output_mtok
    if input_price is None or output_price is None or not named <= _PER_TOKEN:
        return None
    cached_price, write_price = prices.cache_read_mtok, prices.cache_write_mtok
    return _Tariff(
        input_price,
        # Tokens without a price of their own cost as much as input.
        input_price if cached_price is None else cached_price,
        input_price if write_price is None else write_price,
        output_price,
        known.context_window or 0,
        tier,
    )


@lru_cache(maxsize=1024)
def _find(model: str) -> ModelInfo | None:
    """Return the data about a model, or ``None``. An uncached lookup takes some 50 microseconds."""
    for name in dict.fromkeys((model, _SNAPSHOT_DATE.sub("", model))):
        try:
            return get_snapshot().find_provider_model(name, None, "openai", None)[1]
        except LookupError:
            continue
    return None


def _has_tier(model: ModelInfo, tier: str, at: datetime) -> bool:
    return any(
        variant.when == {"service_tier": tier} and (variant.constraint is None or variant.constraint.active(at))
        for variant in model.price_variants or ()
    )


def _rate(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    """Return the rate for a length of input, which applies to all tokens of the request, output included."""
    if not isinstance(price, TieredPrices):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)


def _context_window(price: Decimal | TieredPrices, max_input: int, input_tokens: int) -> int:
    if not isinstance(price, TieredPrices):
        return 0
    return next((tier.start for tier in price.tiers if input_tokens <= tier.start), max_input)
