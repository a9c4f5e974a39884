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
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.turn import ToolUsage, Usage

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
    ["", "gpt", "gpt-7", "gpt-5.4-pico", "codex-auto-review", "claude-opus-4-5", "gpt-5.3-codex-spark", "sora-2"],
)
def test_price_of_an_unknown_model_is_none(model: str) -> None:
    """A model without a price in the data is not priced as another one."""
    assert price(model, Usage(1, 0, 1), None, NOW) is None


@pytest.mark.parametrize(
    ("family", "model", "usage", "micro_usd"),
    [
        pytest.param("embeddings", "text-embedding-3-large", Usage(1000, 0, 0), 130, id="embeddings"),
        pytest.param(
            "images",
            "gpt-image-1",
            Usage(50, 0, 4000, image_input_tokens=40, image_output_tokens=4000, items=1),
            10 * 5 + 40 * 10 + 4000 * 40,
            id="image",
        ),
        pytest.param(
            "images",
            "gpt-image-1.5",
            Usage(50, 20, 4100, image_input_tokens=40, image_cached_tokens=12, image_output_tokens=4000),
            2 * 5 + 8 * 1.25 + 28 * 8 + 12 * 2 + 100 * 10 + 4000 * 32,
            id="cached-image",
        ),
        pytest.param("images", "dall-e-3", Usage(0, 0, 0, items=2), None, id="image-without-tokens"),
        pytest.param("chat", "gpt-5.5", Usage(100, 0, 0, image_input_tokens=60), 500, id="image-as-text"),
        pytest.param("chat", "gpt-5.5", Usage(0, 0, 9, image_output_tokens=9), None, id="image-of-a-text-model"),
        pytest.param(
            "chat",
            "gpt-audio",
            Usage(100, 0, 70, audio_input_tokens=30, audio_output_tokens=60),
            70 * 2.5 + 30 * 32 + 10 * 10 + 60 * 64,
            id="audio",
        ),
        pytest.param("chat", "gpt-5.5", Usage(100, 0, 0, audio_input_tokens=60), None, id="audio-without-a-price"),
        pytest.param(
            "transcription",
            "gpt-4o-transcribe",
            Usage(14, 0, 45, audio_input_tokens=10),
            10 + 60 + 450,
            id="transcript",
        ),
        pytest.param("transcription", "whisper-1", Usage(0, 0, 0, media_ms=90_000), 9000, id="minutes"),
        pytest.param("transcription", "gpt-4o-transcribe", Usage(0, 0, 0, media_ms=1), None, id="minutes-unpriced"),
        pytest.param("speech", "tts-1", Usage(0, 0, 0, characters=1000), 15_000, id="characters"),
        pytest.param("speech", "gpt-4o-mini-tts", Usage(9, 0, 70, audio_output_tokens=70), 845, id="speech"),
        pytest.param("moderation", "omni-moderation-latest", Usage(0, 0, 0, items=3), 0, id="moderation"),
        pytest.param("search", "gpt-5.5", Usage(0, 0, 0, items=1), 10_000, id="search"),
        pytest.param("search", "", Usage(0, 0, 0, items=1), 2_500, id="vector-store-search"),
        pytest.param("container", "", Usage(0, 0, 0, items=1), None, id="container"),
        pytest.param("batch", "gpt-5.5", Usage(1000, 0, 0), 2500, id="batch"),
        pytest.param("fine_tuning", "gpt-4.1", Usage(1000, 0, 0), None, id="training"),
        pytest.param("video", "sora-2", Usage(0, 0, 0, media_ms=8000), None, id="video"),
    ],
)
def test_price_of_media(family: Family, model: str, usage: Usage, micro_usd: float | None) -> None:
    """What is not text has its own rates; a turn that used something without a rate is unpriced."""
    priced = price(model, usage, None, NOW, family=family)
    assert (None if priced is None else priced.cost_micro_usd) == (None if micro_usd is None else round(micro_usd))


def test_price_of_tools() -> None:
    """What hosted tools used is added, images at the rates of the dearest image model."""
    images_used = Usage(50, 0, 4100, image_input_tokens=40, image_output_tokens=4000)
    tools = ToolUsage(images_used, web_searches=2, file_searches=4)
    alone = price("gpt-5.5", Usage(100, 0, 10), None, NOW)
    together = price("gpt-5.5", Usage(100, 0, 10), None, NOW, tool_usage=tools)
    assert alone is not None
    assert together is not None
    images = 10 * 5 + 40 * 10 + 4100 * 40
    assert together.cost_micro_usd - alone.cost_micro_usd == images + 2 * 10_000 + 4 * 2_500
    searched = price("gpt-5.3-codex", Usage(4, 0, 0), None, NOW, tool_usage=ToolUsage(web_searches=1))
    assert searched is not None
    assert searched.cost_micro_usd == 7 + 10_000


def test_override_of_media() -> None:
    """The owner's price applies to tokens of any kind, and to nothing that is not billed by tokens."""
    usage = Usage(
        100, 10, 20, image_input_tokens=30, audio_input_tokens=20, audio_cached_tokens=10, audio_output_tokens=5
    )
    assert price("mine", usage, None, NOW, {"mine": OVERRIDE}) == Priced(131, 0, "default")
    assert price("mine", Usage(0, 0, 0, media_ms=1000), None, NOW, {"mine": OVERRIDE}) is None


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
