"""Turns that a limit would not count are refused."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal

import pytest

from ocm_wsgi.admission.measured_turns import require_measured
from ocm_wsgi.config import Price
from ocm_wsgi.errors import LimitUnmeasurable
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.quota.limits import parse
from ocm_wsgi.simulator import Simulator
from ocm_wsgi.users.user import User
from tests.api_requests import post
from tests.conftest import ALICE, BOB, ServiceFactory

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
USD, PERCENT, TOKENS, REQUESTS = "5 USD per week", "30% per week", "2M tokens per 5h", "100 requests per month"


def is_measured(model: str | None, family: Family, *limits: str, prices: dict[str, Price] | None = None) -> bool:
    user = User("alice", limits=tuple(map(parse, limits)))
    try:
        require_measured(user, model, family, NOW, prices or {})
    except LimitUnmeasurable:
        return False
    return True


@pytest.mark.parametrize(
    ("family", "model", "in_money", "in_tokens"),
    [
        ("responses", "gpt-5.5", True, True),
        ("responses", "codex-auto-review", False, True),
        ("responses", None, False, True),
        ("chat", "gpt-audio", True, True),
        ("embeddings", "text-embedding-3-small", True, True),
        ("images", "gpt-image-2", True, True),
        ("images", "dall-e-3", False, False),
        ("speech", "tts-1", True, False),
        ("speech", "gpt-4o-mini-tts", True, True),
        ("transcription", "whisper-1", True, False),
        ("transcription", "gpt-4o-transcribe", True, True),
        ("transcription", None, False, False),
        ("video", "sora-2", False, False),
        ("moderation", "omni-moderation-latest", True, True),
        ("search", "gpt-5.5", True, True),
        ("search", "codex-auto-review", True, True),
        ("search", None, True, True),
        ("container", None, False, True),
    ],
)
def test_what_limits_measure(family: Family, model: str | None, in_money: bool, in_tokens: bool) -> None:
    """Limits in money need a price, limits in tokens need tokens; limits in requests count everything."""
    assert is_measured(model, family, USD) is in_money
    assert is_measured(model, family, REQUESTS, PERCENT, TOKENS) is in_money
    assert is_measured(model, family, TOKENS) is in_tokens
    assert is_measured(model, family, REQUESTS)
    assert is_measured(model, family)


def test_what_the_owner_has_priced_is_measured() -> None:
    """A price in the configuration makes a model measurable."""
    price = Price(input=Decimal(1), cached_input=Decimal(1), output=Decimal(2))
    assert is_measured("codex-auto-review", "responses", USD, prices={"codex-auto-review": price})


def test_a_turn_that_no_limit_measures_is_refused(service: ServiceFactory, simulator: Simulator) -> None:
    """A user with a limit in money is refused with the reason, and nothing is sent upstream; others are served."""
    limits = [{"per": "week", "usd": 5}]
    entries = [{"name": "alice", "token": ALICE, "limits": limits}, {"name": "bob", "token": BOB}]
    running = service(credential={"OPENAI_API_KEY": simulator.api_key()}, user_entries=entries, workers=1)
    answer = post(running, "/v1/videos", json={"model": "sora-2", "prompt": "x"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "limit_unmeasurable"
    assert "5 USD per week" in error["message"] or "$5 per week" in error["message"]
    assert "'sora-2', which has no known price" in error["message"]
    assert not simulator.requests
    assert post(running, "/v1/videos", BOB, json={"model": "sora-2", "prompt": "x"}).status_code == 200
