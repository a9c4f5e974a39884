"""The messages about rate limits for users of a pool: they see the windows of all its accounts as one. Pure; no I/O."""

from __future__ import annotations

import json
from typing import Any

from ocm_wsgi.protocol.responses.outcome import parse_json
from ocm_wsgi.protocol.responses.rate_limits import DEFAULT_LIMIT
from ocm_wsgi.protocol.websocket.frames import server_text
from ocm_wsgi.quota.choosing import Figures, WindowUse
from ocm_wsgi.quota.limits import LENGTHS, Period

#: The type of the messages.
RATE_LIMITS_TYPE = "codex.rate_limits"

#: The plan that clients are shown, as the accounts may have different ones. For it, Codex suggests asking the admin.
PLAN_TYPE = "business"


def limits_frame(text: bytes, figures: Figures) -> bytes:
    """Return a frame with the message that the client gets in place of upstream's.

    :param text: upstream's message.
    :return: nothing if the message is about another limit than the subscription's, which is that of one account.
    """
    message = parse_json(text)
    if not isinstance(message, dict):
        return b""
    limit = message.get("metered_limit_name")
    if isinstance(limit, str) and limit.lower().replace("_", "-") != DEFAULT_LIMIT:
        return b""
    windows = {"primary": _window(figures.short, "5h"), "secondary": _window(figures.week, "week")}
    is_reached = any(window is not None and window["used_percent"] >= 100 for window in windows.values())
    shown = {
        "type": RATE_LIMITS_TYPE,
        "plan_type": PLAN_TYPE,
        "rate_limits": {"allowed": not is_reached, "limit_reached": is_reached, **windows},
        "code_review_rate_limits": None,
        "credits": None,
        "promo": None,
        "metered_limit_name": limit,
        "limit_name": None,
    }
    if isinstance(message.get("stream_id"), str):
        shown["stream_id"] = message["stream_id"]
    return server_text(json.dumps(shown, separators=(",", ":")).encode())


def _window(window: WindowUse | None, period: Period) -> dict[str, Any] | None:
    if window is None:
        return None
    shown = {"used_percent": round(window.used_percent, 2), "window_minutes": LENGTHS[period] // 60}
    return {**shown, "reset_at": round(window.resets_at)} if window.resets_at else shown
