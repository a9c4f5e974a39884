"""Prices of turns, and the page that compares them."""

from __future__ import annotations

import runpy
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.accounting.pricing import Priced, Rates, price, rates_for
from ocm_wsgi.protocol.responses.turn import Usage

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
MILLION = 1_000_000


@dataclass(frozen=True)
class Set:
    """A price set by the owner, shaped as in the configuration."""

    input: Decimal
    cached_input: Decimal
    output: Decimal


OVERRIDE = Set(Decimal("1"), Decimal("0.1"), Decimal("2"))


@pytest.mark.parametrize(
    ("model", "tier", "usage", "expected"),
    [
        pytest.param("gpt-5", None, Usage(MILLION, 0, 0), Priced(1_250_000, 0, "default"), id="input"),
        pytest.param("gpt-5", "default", Usage(0, 0, MILLION, 900_000), Priced(10_000_000, 0, "default"), id="output"),
        pytest.param("gpt-5", "", Usage(MILLION, MILLION, 0), Priced(125_000, 0, "default"), id="cached"),
        pytest.param("gpt-5", "auto", Usage(100, 60, 20, 5), Priced(258, 0, "default"), id="half-is-rounded-to-even"),
        pytest.param("gpt-5", "Priority", Usage(100, 0, 0), Priced(250, 0, "priority"), id="priority"),
        pytest.param("gpt-5", "flex", Usage(1000, 0, 100), Priced(1125, 0, "flex"), id="flex"),
        pytest.param("gpt-5", "scale", Usage(1000, 0, 0), Priced(1250, 0, "default"), id="scale"),
        pytest.param("gpt-5-nano", "priority", Usage(1000, 0, 0), Priced(50, 0, "default"), id="tier-without-a-price"),
        pytest.param("gpt-5.4", None, Usage(272_000, 0, 0), Priced(680_000, 272_000, "default"), id="short"),
        pytest.param("gpt-5.4", None, Usage(272_001, 1, 10), Priced(1_360_226, 1_050_000, "default"), id="long"),
        pytest.param("gpt-5.4", "flex", Usage(300_000, 0, 0), Priced(750_000, 1_050_000, "flex"), id="long-flex"),
        pytest.param("gpt-5.4-2026-03-05", None, Usage(2, 0, 0), Priced(5, 272_000, "default"), id="snapshot"),
        pytest.param("gpt-5.3-codex-2026-02-05", None, Usage(4, 0, 0), Priced(7, 0, "default"), id="unlisted-snapshot"),
        pytest.param("gpt-4o-2024-05-13", None, Usage(1, 0, 0), Priced(5, 0, "default"), id="snapshot-with-own-price"),
        pytest.param("gpt-5-pro", None, Usage(10, 10, 0), Priced(150, 0, "default"), id="no-cached-price"),
        pytest.param("GPT-6-Sol", None, Usage(10, 0, 0), Priced(20, 272_000, "default"), id="codex-slug"),
        pytest.param("gpt-6.1-sol", None, Usage(100, 20, 0, 0, 40), Priced(182, 272_000, "default"), id="cache-writes"),
        pytest.param("gpt-5", None, Usage(5, 9, 0), Priced(1, 0, "default"), id="more-cached-than-input"),
    ],
)
def test_price(model: str, tier: str | None, usage: Usage, expected: Priced) -> None:
    """Each kind of token has its rate, by model, tier and length."""
    assert price(model, usage, tier, NOW, {}) == expected


@pytest.mark.parametrize(
    "model",
    ["", "gpt", "gpt-7", "gpt-5.4-pico", "codex-auto-review", "claude-opus-4-5", "gpt-5.3-codex-spark", "gpt-audio"],
)
def test_price_of_an_unknown_model_is_none(model: str) -> None:
    """A model without a price in the data is not priced as another one."""
    assert price(model, Usage(1, 0, 1), None, NOW) is None


def test_price_follows_the_date() -> None:
    """A turn has the price of its date, in UTC."""
    usage = Usage(MILLION, 0, 0)
    change = datetime(2026, 8, 21, tzinfo=timezone.utc)
    before, after = (price("gpt-5.6-sol", usage, None, at) for at in (change - timedelta(seconds=1), change))
    assert before is not None
    assert after is not None
    assert (before.cost_micro_usd, after.cost_micro_usd) == (10_000_000, 8_000_000)
    east = change.astimezone(timezone(timedelta(hours=9)))
    assert price("gpt-5.6-sol", usage, None, east) == after


@pytest.mark.parametrize("model", ["mine", "gpt-5.4", "gpt-5.4-2026-03-05"])
def test_override_has_precedence(model: str) -> None:
    """The owner's price applies to the model and its snapshots, known or not, regardless of tier and length."""
    overrides = {"mine": OVERRIDE, "gpt-5.4": OVERRIDE}
    usage = Usage(300_000, 100_000, 10, 0, 50_000)
    assert price(model, usage, "priority", NOW, overrides) == Priced(210_020, 0, "default")
    assert price("gpt-5", Usage(4, 0, 0), None, NOW, overrides) == Priced(5, 0, "default")


def test_override_of_a_snapshot_is_its_own() -> None:
    """A price set for one snapshot does not apply to the model."""
    overrides = {"gpt-5-2025-08-07": OVERRIDE}
    assert rates_for("gpt-5-2025-08-07", 1, None, NOW, overrides) == Rates(
        Decimal("1"), Decimal("0.1"), Decimal("1"), Decimal("2")
    )
    assert price("gpt-5", Usage(4, 0, 0), None, NOW, overrides) == Priced(5, 0, "default")


@given(st.text(max_size=20), st.text(max_size=10))
def test_price_survives_any_name(model: str, tier: str) -> None:
    """No name of a model or a tier makes pricing fail."""
    priced = price(model, Usage(1, 0, 1), tier, NOW)
    assert priced is None or priced.cost_micro_usd >= 0


counts = st.integers(0, 10**9)


@given(counts, counts, counts)
def test_price_is_exact(fresh: int, cached: int, output: int) -> None:
    """The cost is the exact sum, rounded once."""
    priced = price("gpt-5-mini", Usage(fresh + cached, cached, output), None, NOW)
    assert priced is not None
    thousandths = fresh * 250 + cached * 25 + output * 2000
    assert abs(priced.cost_micro_usd * 1000 - thousandths) <= 500


def test_price_is_quick() -> None:
    """Pricing a turn takes well under 50 microseconds once a model is known."""
    usage = Usage(1000, 500, 100)
    price("gpt-6.1-sol", usage, "priority", NOW)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(200):
            price("gpt-6.1-sol", usage, "priority", NOW)
        best = min(best, (time.process_time() - start) / 200)
    assert best < 50e-6


def test_page_is_what_the_code_says() -> None:
    """docs/prices.md is the output of its script; with other price data, it still lists every price of sing-box."""
    script = runpy.run_path(str(ROOT / "scripts" / "prices_page.py"))
    written = (ROOT / "docs" / "prices.md").read_text()
    if f"genai-prices {version('genai-prices')} " in written:
        assert script["page"]() == written
    lines = written.splitlines()
    for model, tier, _, _, theirs in script["rows"]():
        figures = script["_figures"](theirs)
        assert any(line.startswith(f"| {model} | {tier} |") and f" {figures} |" in line for line in lines)
