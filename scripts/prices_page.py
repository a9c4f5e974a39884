"""Write ``docs/prices.md``, which compares our prices with those built into sing-box.

Run it after upgrading ``genai-prices``; a test compares the page with ``page()``.
"""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

from ocm_wsgi.accounting.pricing import Rates, rates_for

PAGE = Path(__file__).resolve().parent.parent / "docs" / "prices.md"

#: The date of the page, as prices change over time.
AS_OF = datetime(2026, 11, 22, tzinfo=timezone.utc)

SHORT, LONG = 272_000, 272_001

#: sing-box's prices, from the version of service/ocm/service_usage.go with context windows and weeks: input, cached
#: input and output in USD per million tokens, then the same for inputs of more than 272,000 tokens.
SING_BOX = """
gpt-5.4                default   2.5    0.25    15     5    0.5   22.5
gpt-5.4-pro            default   30     30      180    60   60    270
gpt-5.3-codex          default   1.75   0.175   14
gpt-5.2                default   1.75   0.175   14
gpt-5.2-codex          default   1.75   0.175   14
gpt-5.2-pro            default   21     21      168
gpt-5.1                default   1.25   0.125   10
gpt-5.1-codex          default   1.25   0.125   10
gpt-5.1-codex-max      default   1.25   0.125   10
gpt-5.1-codex-mini     default   0.25   0.025   2
gpt-5                  default   1.25   0.125   10
gpt-5-codex            default   1.25   0.125   10
gpt-5-codex-mini       default   0.25   0.025   2
gpt-5-mini             default   0.25   0.025   2
gpt-5-nano             default   0.05   0.005   0.4
gpt-5-pro              default   15     15      120
o4-mini                default   1.1    0.275   4.4
o4-mini-deep-research  default   2      0.5     8
o3                     default   2      0.5     8
o3-mini                default   1.1    0.55    4.4
o3-pro                 default   20     20      80
o3-deep-research       default   10     2.5     40
o1                     default   15     7.5     60
o1-mini                default   1.1    0.55    4.4
o1-pro                 default   150    150     600
gpt-4.1                default   2      0.5     8
gpt-4.1-mini           default   0.4    0.1     1.6
gpt-4.1-nano           default   0.1    0.025   0.4
gpt-4o                 default   2.5    1.25    10
gpt-4o-mini            default   0.15   0.075   0.6
chatgpt-4o-latest      default   2.5    1.25    10
gpt-4o-audio-preview   default   2.5    2.5     10
gpt-audio              default   2.5    2.5     10
gpt-audio-mini         default   0.6    0.6     2.4
gpt-5.4                flex      1.25   0.125   7.5    2.5  0.25  11.25
gpt-5.4-pro            flex      15     15      90     30   30    135
gpt-5.2                flex      0.875  0.0875  7
gpt-5.1                flex      0.625  0.0625  5
gpt-5                  flex      0.625  0.0625  5
gpt-5-mini             flex      0.125  0.0125  1
gpt-5-nano             flex      0.025  0.0025  0.2
o4-mini                flex      0.55   0.138   2.2
o3                     flex      1      0.25    4
gpt-5.4                priority  5      0.5     30     10   1     45
gpt-5.3-codex          priority  3.5    0.35    28
gpt-5.2                priority  3.5    0.35    28
gpt-5.2-codex          priority  3.5    0.35    28
gpt-5.1                priority  2.5    0.25    20
gpt-5.1-codex          priority  2.5    0.25    20
gpt-5.1-codex-max      priority  2.5    0.25    20
gpt-5                  priority  2.5    0.25    20
gpt-5-codex            priority  2.5    0.25    20
gpt-5-codex-mini       priority  0.45   0.045   3.6
gpt-5-mini             priority  0.45   0.045   3.6
o4-mini                priority  2      0.5     8
o3                     priority  3.5    0.875   14
gpt-4.1                priority  3.5    0.875   14
gpt-4.1-mini           priority  0.7    0.175   2.8
gpt-4.1-nano           priority  0.2    0.05    0.8
gpt-4o                 priority  4.25   2.125   17
gpt-4o-mini            priority  0.25   0.125   1
"""

#: Models without a price in sing-box, and the model whose price it uses instead.
SING_BOX_STAND_INS = {
    "gpt-5.4-mini": "gpt-5.4",
    "gpt-5.4-nano": "gpt-5.4",
    "gpt-5.5": "gpt-5.4",
    "gpt-5.5-pro": "gpt-5.4-pro",
    "gpt-5.6-sol": "gpt-5.4",
    "gpt-5.6-terra": "gpt-5.4",
    "gpt-5.6-luna": "gpt-5.4",
    "gpt-6-astra": "gpt-4o",
    "gpt-6-sol": "gpt-4o",
    "gpt-6-luna": "gpt-4o",
    "gpt-6.1-sol": "gpt-4o",
    "gpt-6.1-terra": "gpt-4o",
    "codex-auto-review": "gpt-4o",
}

REASONS = {
    ("gpt-5-codex-mini", "default"): "not in the data, so shown as unpriced; `prices` can set it",
    ("gpt-5-codex-mini", "priority"): "not in the data, so shown as unpriced; `prices` can set it",
    ("chatgpt-4o-latest", "default"): "the data lists it separately from gpt-4o, without a cached price",
    ("gpt-5.4", "flex"): "the data has cached input at the listed 0.13; sing-box has exactly half",
    ("gpt-5.4", "priority"): "the data has one priority price for any length; sing-box doubles it",
}

INTRODUCTION = """# Prices

Every turn is priced when it ends, at the rates for its model, service tier, number of input tokens and date. The rates
come with the package `genai-prices` and are never fetched while serving; `prices` in the configuration overrides them
per model. This page describes genai-prices {version} as of {date}. It is generated by `python -m scripts.prices_page`.

- Reasoning tokens are part of the output, cached tokens part of the input. Tokens that newer models write to their
  prompt cache (`cache_write_tokens`) have a separate rate, since gpt-5.6 1.25 times the input rate. sing-box counts
  them as input.
- If a price depends on the length of the input, the rate for that length applies to all tokens of the turn.
- A dated snapshot (`gpt-5.4-2026-03-05`) has its model's price, unless the data lists it separately.
- A model missing from the data is **unpriced**: its tokens are counted, but it has no cost and is marked as unpriced.
  sing-box uses the price of a related model: gpt-5.4 for most of `gpt-5.x`, otherwise gpt-4o.
- A service tier missing from the data is priced at the model's standard rate. Both `priority` and `fast` have their
  own rates. No rate is derived by rules of this service.
- An override applies to all tiers and lengths, and counts cache writes as input.
- Tokens of images and audio, hours of audio, characters and searches have rates of their own. A turn that used
  something for which its model has no rate is unpriced as a whole. Images that a text model reads cost what text costs.
- What hosted tools used beside the model is added: searches at the model's rate for searches, and images at the rates
  of the dearest image model, because OpenAI does not say which one was used. sing-box counts neither.
- Costs are summed exactly, in millionths of a dollar. sing-box rounds each subtotal to cents before adding them up.

All figures are USD per million tokens: input / cached input / output.
"""


def rows() -> list[tuple[str, str, int, Rates | None, tuple[Decimal, ...]]]:
    """Return the model, tier, input tokens, our rates and sing-box's, for every price in sing-box."""
    found = []
    for line in SING_BOX.strip().splitlines():
        model, tier, *figures = line.split()
        prices = [Decimal(figure) for figure in figures]
        for input_tokens, theirs in ((SHORT, prices[:3]), (LONG, prices[3:])):
            if theirs:
                found.append((model, tier, input_tokens, rates_for(model, input_tokens, tier, AS_OF), tuple(theirs)))
    return found


def page() -> str:
    """Return the page for the installed data."""
    same, different = [], []
    for model, tier, input_tokens, ours, theirs in rows():
        name = f"{model} | {tier} | {'> 272,000' if input_tokens == LONG else ''}"
        if ours is not None and (ours.input, ours.cached_input, ours.output) == theirs and ours.service_tier == tier:
            same.append(f"| {name} | {_figures(theirs)} |")
        else:
            different.append(f"| {name} | {_rates(ours)} | {_figures(theirs)} | {REASONS[model, tier]} |")
    return "\n".join(
        [
            INTRODUCTION.format(version=version("genai-prices"), date=AS_OF.date()),
            "## Differences from sing-box\n",
            _table("model | tier | input tokens | ours | sing-box | why", different),
            "## Models that sing-box prices as another model\n",
            _table("model | ours | sing-box | as", _stand_ins()),
            "## Identical prices\n",
            _table("model | tier | input tokens | price", same),
        ]
    )


def _stand_ins() -> list[str]:
    theirs = {model: figures for model, tier, tokens, _, figures in rows() if tier == "default" and tokens == SHORT}
    return [
        f"| {model} | {_rates(rates_for(model, SHORT, None, AS_OF))} | {_figures(theirs[other])} | {other} |"
        for model, other in SING_BOX_STAND_INS.items()
    ]


def _rates(rates: Rates | None) -> str:
    return "unpriced" if rates is None else _figures((rates.input, rates.cached_input, rates.output))


def _figures(prices: tuple[Decimal, ...]) -> str:
    return " / ".join(f"{price.normalize():f}" for price in prices)


def _table(head: str, lines: list[str]) -> str:
    rule = " | ".join("---" for _ in head.split("|"))
    return "\n".join([f"| {head} |", f"| {rule} |", *lines]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
