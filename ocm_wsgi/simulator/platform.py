"""The platform API, ``/v1``, for API keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ocm_wsgi.simulator import background
from ocm_wsgi.simulator.backend import MODEL_SLUGS, output_for, streamed_response
from ocm_wsgi.simulator.exchange import Event, Exchange, Response, World, error_body, error_response, json_response
from ocm_wsgi.simulator.model import Output, chat_usage_object, new_id
from ocm_wsgi.simulator.receiving import Head


def authenticate(world: World, head: Head) -> str | Response:
    """Return ``api``, or OpenAI's response to a missing or wrong key."""
    scheme, _, api_key = (head.field("Authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or len(head.values("Authorization")) != 1:
        return json_response(error_body(None, "You didn't provide an API key."), status=401)
    if not world.issuer.has_api_key(api_key):
        return error_response(401, "invalid_api_key", f"Incorrect API key provided: {api_key[:8]}****.")
    return "api"


def responses(exchange: Exchange) -> Response:
    """``POST /v1/responses``, streamed or as one object."""
    request = exchange.object()
    previous = request.get("previous_response_id")
    if previous is not None and exchange.world.objects.get("responses", previous) is None:
        return error_response(400, "previous_response_not_found", f"Previous response with id '{previous}' not found.")
    output = output_for(exchange, request)
    if request.get("background"):
        background.start(exchange, output)
    elif request.get("store", True):
        exchange.world.objects.add("responses", output.response("completed"))
    fields = (("x-request-id", new_id("req")), ("openai-version", "2020-10-01"), ("openai-processing-ms", "12"))
    if request.get("stream"):
        return streamed_response(exchange, output, fields)
    if request.get("background"):
        return json_response(output.response("queued"), fields=fields)
    status = exchange.plan.terminal if exchange.plan.terminal in ("incomplete", "failed") else "completed"
    return _unstreamed(exchange, output, output.response(status), ends=status)


def _unstreamed(exchange: Exchange, output: Output, body: dict[str, Any], *, ends: str) -> Response:
    def finish(status: str) -> None:
        exchange.world.journal.add_turn(output.turn(status, "json"))

    fields = (("Content-Type", "application/json"), ("x-request-id", new_id("req")))
    return Response(200, fields, (Event(json.dumps(body).encode(), ends),), finish=finish)


def models(_: Exchange) -> Response:
    """``GET /v1/models``."""
    return json_response({"object": "list", "data": [_model(slug) for slug in MODEL_SLUGS]})


def model(exchange: Exchange) -> Response:
    """``GET /v1/models/{id}``."""
    slug = exchange.path.rpartition("/")[2]
    if slug not in MODEL_SLUGS:
        return error_response(404, "model_not_found", f"The model '{slug}' does not exist or you have no access to it.")
    return json_response(_model(slug))


def _model(slug: str) -> dict[str, Any]:
    return {"id": slug, "object": "model", "created": 1735689600, "owned_by": "system"}


def chat_completions(exchange: Exchange) -> Response:
    """``POST /v1/chat/completions``, streamed or as one object."""
    request = exchange.object()
    output = output_for(exchange, request)
    if request.get("store"):
        exchange.world.objects.add("chat/completions", _completion(output))
    if not request.get("stream"):
        return _unstreamed(exchange, output, _completion(output), ends="completed")
    options = request.get("stream_options")
    includes_usage = isinstance(options, dict) and bool(options.get("include_usage"))

    def finish(status: str) -> None:
        exchange.world.journal.add_turn(output.turn(status, "sse", reports_usage=includes_usage))

    fields = (("Content-Type", "text/event-stream; charset=utf-8"), ("x-request-id", new_id("req")))
    return Response(200, fields, _chunks(output, includes_usage=includes_usage), is_streamed=True, finish=finish)


def _completion(output: Output) -> dict[str, Any]:
    text = "".join(output.deltas)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = chat_usage_object(output.usage)
    return {**_chat(output, "chat.completion"), "choices": [choice], "usage": usage}


def completions(exchange: Exchange) -> Response:
    """``POST /v1/completions``, streamed or as one object."""
    request = exchange.object()
    output = output_for(exchange, request)
    common = {**_chat(output, "text_completion"), "id": output.response_id.replace("resp_", "cmpl-")}
    usage = chat_usage_object(output.plan.usage)
    if not request.get("stream"):
        choice = {"index": 0, "text": "".join(output.deltas), "logprobs": None, "finish_reason": "stop"}
        return _unstreamed(exchange, output, {**common, "choices": [choice], "usage": usage}, ends="completed")
    includes_usage = bool((request.get("stream_options") or {}).get("include_usage"))

    def chunks() -> Iterator[Event]:
        for delta in output.deltas:
            yield _data({**common, "choices": [{"index": 0, "text": delta, "finish_reason": None}]}, None)
        if includes_usage:
            yield _data({**common, "choices": [], "usage": usage}, None)
        yield Event(b"data: [DONE]\n\n", "completed")

    def finish(status: str) -> None:
        exchange.world.journal.add_turn(output.turn(status, "sse", reports_usage=includes_usage))

    fields = (("Content-Type", "text/event-stream; charset=utf-8"), ("x-request-id", new_id("req")))
    return Response(200, fields, chunks(), is_streamed=True, finish=finish)


def _chat(output: Output, kind: str) -> dict[str, Any]:
    return {
        "id": output.response_id.replace("resp_", "chatcmpl-"),
        "object": kind,
        "created": output.created_at,
        "model": output.model,
        "service_tier": output.service_tier,
        "system_fingerprint": "fp_simulated",
    }


def _chunks(output: Output, *, includes_usage: bool) -> Iterator[Event]:
    """Yield the chunks. The turn ends with the last choice, or with the usage chunk if requested."""
    common = _chat(output, "chat.completion.chunk")
    no_usage = {"usage": None} if includes_usage else {}
    ends = "completed" if output.plan.terminal == "completed" else None

    def chunk(delta: dict[str, Any], finish_reason: str | None, ends: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**common, "choices": [choice], **no_usage}, ends)

    yield chunk({"role": "assistant", "content": "", "refusal": None}, None)
    padding = {"obfuscation": "x" * output.plan.event_bytes} if output.plan.event_bytes else {}
    for delta in output.deltas:
        yield chunk({"content": delta, **padding}, None)
    if output.plan.terminal is None:
        return
    yield chunk({}, "stop", None if includes_usage else ends)
    if includes_usage:
        yield _data({**common, "choices": [], "usage": chat_usage_object(output.usage)}, ends)
    yield Event(b"data: [DONE]\n\n")


def _data(value: dict[str, Any], ends: str | None) -> Event:
    return Event(f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode(), ends)


def embeddings(exchange: Exchange) -> Response:
    """``POST /v1/embeddings``."""
    request = exchange.object()
    given = request.get("input", "")
    count = len(given) if isinstance(given, list) else 1
    vector = [0.5, -0.25, 0.125]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": 8 * count, "total_tokens": 8 * count}
    output = replace(output_for(exchange, request), plan=replace(exchange.plan, usage={"input_tokens": 8 * count}))
    body = {"object": "list", "data": data, "model": request.get("model"), "usage": usage}
    return _unstreamed(exchange, output, body, ends="completed")


def echo(exchange: Exchange) -> Response:
    """Any other path: returns the request, so that a proxy's tests can compare it."""
    return json_response(
        {
            "method": exchange.head.method,
            "target": exchange.head.target,
            "fields": exchange.head.fields,
            "body_length": len(exchange.body.content),
            "body_sha256": hashlib.sha256(exchange.body.content).hexdigest(),
        }
    )
