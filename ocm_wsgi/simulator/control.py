"""The simulator's control endpoints, for tests in another process: queue plans, read the records."""

from __future__ import annotations

import dataclasses
from typing import Any

from ocm_wsgi.simulator.exchange import Exchange, Response, error_response, json_response
from ocm_wsgi.simulator.plans import Plan, PlanError

#: The number of newest records that ``/_simulator/state`` shows.
MAX_SHOWN = 1000


def plan(exchange: Exchange) -> Response:
    """``POST /_simulator/plan``: a plan's fields as JSON, with ``path`` and ``times`` beside them."""
    members = exchange.object()
    path, times = members.pop("path", None), members.pop("times", 1)
    try:
        planned = Plan.from_members(members)
    except PlanError as exc:
        return error_response(400, "bad_plan", str(exc))
    exchange.world.plans.add(planned, path=path, times=times)
    return json_response({"waiting": len(exchange.world.plans)})


def state(exchange: Exchange) -> Response:
    """``GET /_simulator/state``: the journal as JSON, the newest records of each kind."""
    journal = exchange.world.journal
    return json_response(
        {
            "url": exchange.world.url,
            "open_streams": journal.open_streams,
            "open_connections": journal.open_connections,
            "waiting_plans": len(exchange.world.plans),
            "requests": [_request(seen) for seen in journal.requests[-MAX_SHOWN:]],
            "bad_messages": journal.bad_messages[-MAX_SHOWN:],
            "turns": [dataclasses.asdict(turn) for turn in journal.turns[-MAX_SHOWN:]],
            "refreshes": [dataclasses.asdict(refresh) for refresh in journal.refreshes[-MAX_SHOWN:]],
        }
    )


def _request(seen: Any) -> dict[str, Any]:
    members = dataclasses.asdict(seen)
    del members["body"]
    return members
