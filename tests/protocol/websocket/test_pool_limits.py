"""The messages about rate limits that users of a pool get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocm_wsgi.protocol.websocket.pool_limits import limits_frame
from ocm_wsgi.quota.choosing import Figures, WindowUse

BOTH = Figures(2, WindowUse(12.345, 1000.4), WindowUse(100, 2000))


def shown(message: Any, figures: Figures = BOTH) -> Any:
    """Return the message in the frame that the client gets."""
    frame = limits_frame(json.dumps(message).encode(), figures)
    return json.loads(frame[frame.index(b"{") :]) if frame else None


def test_the_windows_are_those_of_the_pool() -> None:
    """And nothing else of the account is left."""
    account = {
        "type": "codex.rate_limits",
        "plan_type": "pro",
        "rate_limits": {"allowed": True, "primary": {"used_percent": 1}},
        "credits": {"has_credits": True, "balance": "12.50"},
        "promo": "of the account",
        "limit_name": "of the account",
    }
    found = shown(account)
    assert found["rate_limits"] == {
        "allowed": False,
        "limit_reached": True,
        "primary": {"used_percent": 12.35, "window_minutes": 300, "reset_at": 1000},
        "secondary": {"used_percent": 100, "window_minutes": 10080, "reset_at": 2000},
    }
    assert "of the account" not in json.dumps(found)
    assert "12.50" not in json.dumps(found)
    assert found["plan_type"] == "business"
    assert "stream_id" not in found
    assert shown({**account, "stream_id": "lane"})["stream_id"] == "lane"


def test_what_is_not_known_is_not_shown() -> None:
    """Neither a window nor its reset."""
    found = shown({"type": "codex.rate_limits"}, Figures(1, None, WindowUse(5)))
    assert found["rate_limits"]["primary"] is None
    assert found["rate_limits"]["secondary"] == {"used_percent": 5, "window_minutes": 10080}
    assert found["rate_limits"]["allowed"]


@pytest.mark.parametrize("limit", [None, "codex", "CODEX"])
def test_the_subscriptions_own_limit(limit: str | None) -> None:
    """By whatever name."""
    assert shown({"type": "codex.rate_limits", "metered_limit_name": limit}) is not None


@pytest.mark.parametrize("message", [{"type": "codex.rate_limits", "metered_limit_name": "codex_other"}, [], "text"])
def test_other_messages_are_left_out(message: Any) -> None:
    """They describe one account."""
    assert shown(message) is None


def test_a_message_that_cannot_be_read_is_left_out() -> None:
    """Nobody knows what it says."""
    assert limits_frame(b'{"type":"codex.rate_limits"', BOTH) == b""
