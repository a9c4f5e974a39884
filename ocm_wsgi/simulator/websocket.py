"""Responses over a WebSocket (CODEX.md section 5)."""

from __future__ import annotations

from ocm_wsgi.simulator.connection import Cut
from ocm_wsgi.simulator.exchange import Exchange


def serve(exchange: Exchange) -> None:
    raise Cut
