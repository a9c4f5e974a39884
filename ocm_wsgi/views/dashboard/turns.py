"""The list of turns, newest first, and its CSV file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as BaseResponse

from ocm_wsgi.accounting import history
from ocm_wsgi.accounting.history import TurnFilter
from ocm_wsgi.config import times
from ocm_wsgi.protocol.responses.turn import Turn, TurnStatus
from ocm_wsgi.quota.limits import DAY_SECONDS, MICRO_PER_USD
from ocm_wsgi.reporting.spreadsheet import csv_text
from ocm_wsgi.reporting.status import iso, sees_all
from ocm_wsgi.reporting.units import UNIT_COLUMNS
from ocm_wsgi.views.dashboard.blueprint import current_dashboard, page, viewer

STATUSES: tuple[str, ...] = get_args(TurnStatus)
_FILTERS = ("user", "model", "status", "since", "until")
_COLUMNS = (
    *("started_at", "user", "model", "service_tier", "status", "http_status", "error_code", "transport"),
    *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_usd"),
    *("first_byte_ms", "duration_ms", "request_id"),
    *UNIT_COLUMNS,
    "estimated",
)


def add_pages(blueprint: Blueprint) -> None:
    """Add /turns and /turns.csv."""
    blueprint.add_url_rule("/turns", "turns", show)
    blueprint.add_url_rule("/turns.csv", "turns_csv", download)


def show() -> BaseResponse:
    """Show a page of turns."""
    database = current_dashboard().service.database
    given, turn_filter = _query_fields(), _turn_filter()
    found = history.turns(database, turn_filter)
    users, models = history.names(database, time.time() - 31 * DAY_SECONDS, turn_filter.user and _restricted_to())
    query = urlencode(given)
    following = urlencode({**given, "before": str(found.next)}) if found.next else None
    return page(
        "turns",
        page=found,
        given=given,
        query=query,
        following=following,
        is_first=turn_filter.before is None,
        users=users,
        models=models,
        statuses=STATUSES,
    )


def download() -> BaseResponse:
    """Return the turns that the page would list, as CSV."""
    found = history.all_turns(current_dashboard().service.database, replace(_turn_filter(), before=None))
    return Response(
        csv_text(_COLUMNS, map(_row, found)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="turns.csv"', "Cache-Control": "no-store"},
    )


def _restricted_to() -> str | None:
    """Return the only user whose turns the viewer may see; ``None`` if they may see all."""
    return None if sees_all(viewer()) else viewer().name


def _query_fields() -> dict[str, str]:
    return {name: text for name in _FILTERS if (text := request.args.get(name, "").strip())}


def _turn_filter() -> TurnFilter:
    given, own = _query_fields(), _restricted_to()
    until = _day(given.get("until"))
    return TurnFilter(
        user=own if own is not None else given.get("user"),
        model=given.get("model"),
        status=given.get("status") if given.get("status") in STATUSES else None,
        since=_day(given.get("since")),
        until=None if until is None else until + DAY_SECONDS,
        before=history.parse_cursor(request.args.get("before", "")),
    )


def _day(text: str | None) -> float | None:
    """Return the start of a day in UTC; ``None`` for text that is not a day."""
    try:
        return times.parse_day(text or "")
    except ValueError:
        return None


def _row(turn: Turn) -> Sequence[object]:
    usage = turn.usage
    tokens = (
        (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens) if usage else [None] * 4
    )
    units = [getattr(usage, name) for name in UNIT_COLUMNS] if usage else [None] * len(UNIT_COLUMNS)
    cost = None if turn.cost_micro_usd is None else f"{turn.cost_micro_usd / MICRO_PER_USD:.6f}"
    return (
        *(iso(turn.started_at), turn.user, turn.model, turn.service_tier, turn.status, turn.http_status),
        *(turn.error_code, turn.transport, *tokens, cost, turn.first_byte_ms, turn.duration_ms, turn.request_id),
        *units,
        "yes" if turn.estimated else "no",
    )
