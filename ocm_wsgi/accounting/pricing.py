"""Prices turns at OpenAI's published prices. Pure; no I/O.

Prices are not guessed: a turn that used something for which its model has no price is unpriced. If the data has none
for a service tier, the model's standard price applies, and ``Priced.service_tier`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from operator import attrgetter
from typing import Protocol

from ocm_wsgi.accounting.tariffs import BATCH_TIER, Tariff, dearest_image_tariff, dearest_rate, tariff_for, without_date
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.turn import ToolUsage, Usage

_MS_PER_HOUR = 3_600_000
_MICRO = 1_000_000
# Prices per thousand pieces, in micro-dollars for a piece.
_MICRO_PER_KCOUNT = 1_000


class Override(Protocol):
    """A model's price as set by the owner: USD per million tokens of any kind, regardless of tier and length."""

    @property
    def input(self) -> Decimal: ...

    @property
    def cached_input(self) -> Decimal: ...

    @property
    def output(self) -> Decimal: ...


@dataclass(frozen=True)
class Rates:
    """The rates of one request for text: USD per million tokens, which is the same as micro-dollars per token.

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
    *,
    family: Family = "responses",
    tool_usage: ToolUsage | None = None,
) -> Priced | None:
    """Return the cost of a turn, or ``None`` if it used something that has no price.

    :param model: as named by upstream, else as requested; empty where no model is chosen.
    :param at: when the request was made; in UTC if it has no time zone. Prices change by date.
    :param overrides: prices by model, for one snapshot or for all of them; they take precedence over the data.
    :param family: how the endpoint reports usage, which says what it is billed by.
    :param tool_usage: what hosted tools used beside the model.
    """
    if family == "fine_tuning":
        # The data has prices for using models, not for training them.
        return None
    minute = at.replace(second=0, microsecond=0)
    service_tier = BATCH_TIER if family == "batch" else service_tier
    tariff = _tariff(model, service_tier, at, overrides)
    if family == "search" and (tariff is None or not tariff.prices.keys() & set(_SEARCHES)):
        # Without a model, a vector store is searched.
        unit = "web_searches_kcount" if model else "storage_searches_kcount"
        tariff = Tariff({unit: dearest_rate(unit, minute)})
    if tariff is None:
        return None
    cost = _cost(usage, tariff, family)
    tools = Decimal() if tool_usage is None else _tools_cost(tool_usage, tariff, minute)
    if cost is None or tools is None:
        return None
    micro_usd = int((cost + tools).to_integral_value(ROUND_HALF_EVEN))
    return Priced(micro_usd, tariff.context_window(usage.input_tokens), tariff.service_tier)


def has_price(
    model: str, at: datetime, overrides: Mapping[str, Override] | None = None, *, family: Family = "responses"
) -> bool:
    """Return whether turns of an endpoint of this kind have a price, if they use what they usually do."""
    usual = _USUAL.get(family, (Usage(1, 0, 1),))
    return any(price(model, usage, None, at, overrides, family=family) is not None for usage in usual)


def is_billed_by_tokens(
    model: str, at: datetime, overrides: Mapping[str, Override] | None = None, *, family: Family
) -> bool:
    """Return whether what a model does for an endpoint of this kind is billed by tokens, at a known price."""
    usual = (usage for usage in _USUAL.get(family, (Usage(1, 0, 1),)) if usage.input_tokens)
    return any(price(model, usage, None, at, overrides, family=family) is not None for usage in usual)


# What turns of some endpoints use, in each of the ways in which they are billed.
_USUAL: Mapping[Family, tuple[Usage, ...]] = {
    "embeddings": (Usage(1, 0, 0),),
    "images": (Usage(1, 0, 1, image_output_tokens=1),),
    "speech": (Usage(0, 0, 0, characters=1), Usage(1, 0, 1, audio_output_tokens=1)),
    "transcription": (Usage(0, 0, 0, media_ms=1), Usage(1, 0, 1, audio_input_tokens=1)),
    "video": (Usage(0, 0, 0, media_ms=1),),
    "moderation": (Usage(0, 0, 0, items=1),),
    "search": (Usage(0, 0, 0, items=1),),
    "container": (Usage(0, 0, 0, items=1),),
}


def rates_for(
    model: str,
    input_tokens: int,
    service_tier: str | None,
    at: datetime,
    overrides: Mapping[str, Override] | None = None,
) -> Rates | None:
    """Return the rates for text of a request with ``input_tokens``, or ``None`` for a model without them."""
    tariff = _tariff(model, service_tier, at, overrides)
    if tariff is None or not {"input_mtok", "output_mtok"} <= tariff.prices.keys():
        return None
    rates = (tariff.rate(names, input_tokens) or Decimal() for names in (_INPUT, _CACHED, _CACHE_WRITE, _OUTPUT))
    fresh, cached, written, output = rates
    return Rates(fresh, cached, written, output, tariff.context_window(input_tokens), tariff.service_tier)


# The prices for each kind of token, in order of preference. Tokens without a price of their own cost as much as input.
_INPUT = ("input_mtok",)
_CACHED = ("cache_read_mtok", "input_mtok")
_CACHE_WRITE = ("cache_write_mtok", "input_mtok")
_OUTPUT = ("output_mtok",)
# OpenAI bills images that a text model reads like its text. Audio has prices of its own or none.
_IMAGE_INPUT = ("input_image_mtok", "input_mtok")
_IMAGE_CACHED = ("cache_image_read_mtok", "input_image_mtok", "cache_read_mtok", "input_mtok")
_AUDIO_INPUT = ("input_audio_mtok",)
_AUDIO_CACHED = ("cache_audio_read_mtok", "input_audio_mtok")
_SEARCHES = ("web_searches_kcount", "storage_searches_kcount")
_HOURS = ("input_audio_hours", "audio_hours")

_ONE = Decimal(1)
# Most turns use nothing but text.
_beside_text = attrgetter(
    "image_input_tokens",
    "image_cached_tokens",
    "image_output_tokens",
    "audio_input_tokens",
    "audio_cached_tokens",
    "audio_output_tokens",
    "media_ms",
    "characters",
    "items",
)


def _tariff(
    model: str, service_tier: str | None, at: datetime, overrides: Mapping[str, Override] | None
) -> Tariff | None:
    override = (overrides.get(model) or overrides.get(without_date(model))) if overrides else None
    if override is None:
        return tariff_for(model, service_tier, at)
    prices = {
        "input_mtok": override.input,
        "cache_read_mtok": override.cached_input,
        "output_mtok": override.output,
        "input_audio_mtok": override.input,
        "cache_audio_read_mtok": override.cached_input,
        "output_image_mtok": override.output,
        "output_audio_mtok": override.output,
    }
    return Tariff(prices)


def _cost(usage: Usage, tariff: Tariff, family: Family) -> Decimal | None:
    """Return the cost in micro-dollars, or ``None`` if something has no price."""
    if family == "moderation" and not tariff.prices:
        return Decimal()
    cost = Decimal()
    for amount, names, per in _amounts(usage, tariff, family):
        if amount > 0:
            rate = tariff.rate(names, usage.input_tokens)
            if rate is None:
                return None
            cost += amount * rate * per
    return cost


def _amounts(usage: Usage, tariff: Tariff, family: Family) -> Iterator[tuple[int, tuple[str, ...], Decimal]]:
    """Yield what was used: the amount, the prices for it, and the micro-dollars for one at a price of 1."""
    cached_media = usage.image_cached_tokens + usage.audio_cached_tokens
    fresh_media = usage.image_input_tokens + usage.audio_input_tokens - cached_media
    yield max(usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens - fresh_media, 0), _INPUT, _ONE
    yield max(usage.cached_tokens - cached_media, 0), _CACHED, _ONE
    yield usage.cache_write_tokens, _CACHE_WRITE, _ONE
    yield max(usage.output_tokens - usage.image_output_tokens - usage.audio_output_tokens, 0), _OUTPUT, _ONE
    if any(_beside_text(usage)):
        yield from _amounts_beside_text(usage, tariff, family)


def _amounts_beside_text(
    usage: Usage, tariff: Tariff, family: Family
) -> Iterator[tuple[int, tuple[str, ...], Decimal]]:
    yield usage.image_input_tokens - usage.image_cached_tokens, _IMAGE_INPUT, _ONE
    yield usage.image_cached_tokens, _IMAGE_CACHED, _ONE
    yield usage.audio_input_tokens - usage.audio_cached_tokens, _AUDIO_INPUT, _ONE
    yield usage.audio_cached_tokens, _AUDIO_CACHED, _ONE
    # A model that writes nothing but images or audio has one price for its output.
    yield usage.image_output_tokens, ("output_image_mtok", *(_OUTPUT if family == "images" else ())), _ONE
    yield usage.audio_output_tokens, ("output_audio_mtok", *(_OUTPUT if family == "speech" else ())), _ONE
    yield usage.media_ms, _HOURS, Decimal(_MICRO) / _MS_PER_HOUR
    has_tokens = usage.input_tokens + usage.output_tokens > 0
    if not has_tokens or "input_mchars" in tariff.prices:
        yield usage.characters, ("input_mchars",), _ONE
    if not has_tokens:
        yield usage.items, _SEARCHES if family == "search" else (), Decimal(_MICRO_PER_KCOUNT)


def _tools_cost(usage: ToolUsage, tariff: Tariff, minute: datetime) -> Decimal | None:
    """Return the cost of what hosted tools used, in micro-dollars. Which image model they used is not known."""
    images = _cost(replace(usage.images, items=0), dearest_image_tariff(minute), "images")
    if images is None:
        return None
    searches = Decimal()
    for count, unit in ((usage.web_searches, _SEARCHES[0]), (usage.file_searches, _SEARCHES[1])):
        if count:
            rate = tariff.rate((unit,), 0)
            searches += count * (dearest_rate(unit, minute) if rate is None else rate) * _MICRO_PER_KCOUNT
    return images + searches
