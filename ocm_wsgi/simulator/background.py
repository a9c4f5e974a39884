"""Responses that the platform makes in the background: fetched, streamed from anywhere, or cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from ocm_wsgi.simulator.exchange import Event, Exchange, Response, json_response
from ocm_wsgi.simulator.model import Output, as_sse
from ocm_wsgi.simulator.stored_objects import unknown_response


def start(exchange: Exchange, output: Output) -> None:
    """Store a response that is in progress; it ends whether anyone fetches it or not."""
    stored = {**output.response("queued"), "_output": output, "_polls": exchange.world.background_polls}
    exchange.world.objects.add("responses", stored)
    if not output.request.get("stream"):
        exchange.world.journal.add_turn(output.turn("completed", "json"))


def retrieve(exchange: Exchange) -> Response:
    """``GET /v1/responses/{id}``, as an object or, with ``stream=true``, as a stream."""
    object_id = exchange.path.rpartition("/")[2]
    stored = exchange.world.objects.get("responses", object_id)
    if stored is None:
        return unknown_response(object_id)
    output = stored.get("_output")
    if not isinstance(output, Output):
        return json_response(stored)
    query = parse_qs(urlsplit(exchange.head.target).query)
    if query.get("stream") == ["true"]:
        fields = (("Content-Type", "text/event-stream; charset=utf-8"),)
        return Response(200, fields, _events_after(output, int(query.get("starting_after", ["-1"])[0])), True)
    if stored["_polls"] > 0:
        stored["_polls"] -= 1
        return json_response(output.response("in_progress"))
    return json_response(output.response(stored.get("_end", output.plan.terminal or "failed")))


def cancel(exchange: Exchange) -> Response:
    """``POST /v1/responses/{id}/cancel``."""
    object_id = exchange.path.split("/")[-2]
    stored = exchange.world.objects.get("responses", object_id)
    output = None if stored is None else stored.get("_output")
    if stored is None or not isinstance(output, Output):
        return unknown_response(object_id)
    stored["_polls"], stored["_end"] = 0, "cancelled"
    return json_response(output.response("cancelled"))


def _events_after(output: Output, sequence: int) -> Iterator[Event]:
    for event, ends in output.events():
        if event["sequence_number"] > sequence:
            yield Event(as_sse(event), ends)
