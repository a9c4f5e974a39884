"""OpenAI's published prices, from the data of ``genai-prices``. Pure; no I/O, and no network.

A model that the data does not contain has no tariff; it is never priced as another model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, TieredPrices

#: What prices are for, by their names in the data: USD per million tokens (``mtok``) or characters, per hour, or per
#: thousand (``kcount``). A model with a price for anything else has no tariff.
UNITS = frozenset(
    {
        "input_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "output_mtok",
        "input_image_mtok",
        "cache_image_read_mtok",
        "output_image_mtok",
        "input_audio_mtok",
        "cache_audio_read_mtok",
        "output_audio_mtok",
        "audio_hours",
        "input_audio_hours",
        "input_mchars",
        "web_searches_kcount",
        "storage_searches_kcount",
    }
)

#: The tier of requests in a batch, which cost half as a rule.
BATCH_TIER = "batch"

# Names of the tier with the standard price. ``scale`` is paid in advance and has no price of its own.
_STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "scale"})
_SNAPSHOT_DATE = re.compile(r"-20\d\d-\d\d-\d\d$")
_PROVIDER = "openai"


@dataclass(frozen=True)
class Tariff:
    """The prices of a model, tier and time, for inputs of any length.

    :ivar prices: by the names in :data:`UNITS`; empty for a model that is free.
    :ivar max_input: the longest input that the model accepts, in tokens.
    :ivar service_tier: ``default``, unless the data has prices for the requested tier.
    """

    prices: Mapping[str, Decimal | TieredPrices]
    max_input: int = 0
    service_tier: str = "default"

    def rate(self, names: Iterable[str], input_tokens: int) -> Decimal | None:
        """Return the first price that exists, for a length of input; ``None`` if there is none.

        The price for a length applies to all tokens of the request, output included.
        """
        for name in names:
            price = self.prices.get(name)
            if price is not None:
                break
        else:
            return None
        if not isinstance(price, TieredPrices):
            return price
        for tier in reversed(price.tiers):
            if input_tokens > tier.start:
                return tier.price
        return price.base

    def context_window(self, input_tokens: int) -> int:
        """Return the longest input, in tokens, for which the rates are the same; 0 if they do not depend on it."""
        price = self.prices.get("input_mtok")
        if not isinstance(price, TieredPrices):
            return 0
        return next((tier.start for tier in price.tiers if input_tokens <= tier.start), self.max_input)


def load() -> None:
    """Load the data now. It takes some 100 ms, which would otherwise delay the first turn and all others with it."""
    get_snapshot()


def tariff_for(model: str, service_tier: str | None, at: datetime) -> Tariff | None:
    """Return the tariff of a model of OpenAI's, or ``None`` for one without a price.

    :param model: a dated snapshot that is not listed itself has the tariff of its model.
    """
    # Prices change at whole minutes.
    return _tariff(model, (service_tier or "").strip().lower(), at.replace(second=0, microsecond=0))


def without_date(model: str) -> str:
    """Return the name of the model that a dated snapshot is of."""
    return _SNAPSHOT_DATE.sub("", model)


@lru_cache(maxsize=64)
def dearest_image_tariff(minute: datetime) -> Tariff:
    """Return the tariff of the image model whose output is the dearest.

    Upstream does not say which image model a hosted tool has used.

    :param minute: rounded down to the minute.
    """
    tariffs = [_tariff(model.id, "", minute) for model in _models() if "image" in model.id]
    known = [each for each in tariffs if each is not None and "input_image_mtok" in each.prices]
    return max(known, key=lambda each: each.rate(("output_image_mtok", "output_mtok"), 0) or Decimal())


@lru_cache(maxsize=64)
def dearest_rate(unit: str, minute: datetime) -> Decimal:
    """Return the highest price of any model for a unit.

    :param minute: rounded down to the minute.
    """
    tariffs = [_tariff(model.id, "", minute) for model in _models()]
    return max(each.rate((unit,), 0) or Decimal() for each in tariffs if each is not None)


# Most turns have one of a few models and tiers.
@lru_cache(maxsize=1024)
def _tariff(model: str, tier: str, minute: datetime) -> Tariff | None:
    known = _find(model)
    if known is None:
        return None
    if tier in _STANDARD_TIERS or not _has_tier(known, tier, minute):
        tier = "default"
    named = vars(known.get_prices(minute, _condition(tier)))
    prices = {name: price for name, price in named.items() if price is not None}
    return Tariff(prices, known.context_window or 0, tier) if prices.keys() <= UNITS else None


@lru_cache(maxsize=1024)
def _find(model: str) -> ModelInfo | None:
    """Return the data about a model, or ``None``. An uncached lookup takes some 50 microseconds."""
    for name in dict.fromkeys((model, without_date(model))):
        try:
            return get_snapshot().find_provider_model(name, None, _PROVIDER, None)[1]
        except LookupError:
            continue
    return None


def _models() -> Iterable[ModelInfo]:
    return next(provider.models for provider in get_snapshot().providers if provider.id == _PROVIDER)


def _condition(tier: str) -> dict[str, str]:
    """Return what makes the prices of a tier apply. The data has a batch as a way of processing."""
    return {"processing": tier} if tier == BATCH_TIER else {"service_tier": tier}


def _has_tier(model: ModelInfo, tier: str, at: datetime) -> bool:
    return any(
        variant.when == _condition(tier) and (variant.constraint is None or variant.constraint.active(at))
        for variant in model.price_variants or ()
    )
