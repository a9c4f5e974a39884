"""The ChatGPT side: the Codex backend, other endpoints that Codex uses, and private ones that must be unreachable."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ocm_wsgi.simulator import ratelimits
from ocm_wsgi.simulator.exchange import Event, Exchange, Response, World, error_response, json_response
from ocm_wsgi.simulator.model import Output, new_id, sse_events, usage_object
from ocm_wsgi.simulator.receiving import Head

#: Part of every private response. If a test finds it, the owner's conversations have leaked.
PRIVATE_MARKER = "PRIVATE-CONVERSATION-OF-THE-OWNER-7f3c1e"

MODEL_SLUGS = ("gpt-6.1-sol", "gpt-6.1-terra", "gpt-5.5", "gpt-5.5-mini")

#: Parameters of responses that the platform accepts and the Codex backend refuses (CODEX.md 9.2).
UNSUPPORTED_PARAMETERS = (
    *("temperature", "top_p", "max_output_tokens", "presence_penalty", "frequency_penalty", "seed", "metadata"),
    *("top_logprobs", "truncation"),
)


def unsupported_parameter(request: Mapping[str, Any]) -> str | None:
    """Return the sentence that refuses a request for its first unsupported parameter, or ``None``."""
    name = next((name for name in UNSUPPORTED_PARAMETERS if request.get(name) is not None), None)
    return None if name is None else f"Unsupported parameter: {name}"


def authenticate(world: World, head: Head) -> str | Response:
    """Return the request's account, or a refusal as the ChatGPT backend would send it."""
    scheme, _, access_token = (head.field("Authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or len(head.values("Authorization")) != 1:
        return json_response({"detail": "Unauthorized"}, status=401)
    known = world.issuer.access(access_token)
    if known is None or known.state != "live":
        message = "Your authentication token has been invalidated. Please try signing in again."
        return _refusal("token_invalidated", message)
    if known.expires_at <= world.issuer.clock():
        return _refusal("token_expired", "Provided authentication token is expired. Please try signing in again.")
    if head.values("ChatGPT-Account-Id") != [known.account.account_id]:
        return json_response({"detail": "The account does not match the token."}, status=401)
    return known.account.account_id


def _refusal(code: str, message: str) -> Response:
    return json_response(
        {"error": {"message": message, "type": None, "code": code, "param": None}, "status": 401}, status=401
    )


def output_for(exchange: Exchange, request: dict[str, Any]) -> Output:
    """Return the output of a request's turn, as planned."""
    return Output(
        request=request,
        plan=exchange.plan,
        response_id=new_id("resp"),
        created_at=int(exchange.world.journal.clock()),
        number=exchange.number,
        account=exchange.account,
    )


def streamed_response(exchange: Exchange, output: Output, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a turn's event stream, which records the turn just before its last event is sent."""

    def finish(status: str) -> None:
        exchange.world.journal.add_turn(output.turn(status, "sse"))

    head = (("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"), *fields)
    return Response(200, head, sse_events(output), is_streamed=True, finish=finish)


def _fields(exchange: Exchange) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", new_id("req")), *ratelimits.response_fields(exchange.rate_limits))


def responses(exchange: Exchange) -> Response:
    """``POST /backend-api/codex/responses``: streams only."""
    request = exchange.object()
    if request.get("stream") is not True:
        return json_response({"detail": "Stream must be set to true"}, status=400)
    if request.get("store"):
        return json_response({"detail": "Store must be set to false"}, status=400)
    unsupported = unsupported_parameter(request)
    if request.get("previous_response_id") is not None:
        # Only on a WebSocket does the backend remember earlier responses.
        unsupported = unsupported or "Unsupported parameter: previous_response_id"
    if unsupported is not None:
        return json_response({"detail": unsupported}, status=400)
    return streamed_response(exchange, output_for(exchange, request), _fields(exchange))


def compact(exchange: Exchange) -> Response:
    """``POST /backend-api/codex/responses/compact``: a compacted history, as JSON."""
    output = output_for(exchange, exchange.object())

    def finish(status: str) -> None:
        exchange.world.journal.add_turn(output.turn(status, "json"))

    body = {
        "id": output.response_id,
        "object": "response.compaction",
        "created_at": output.created_at,
        "output": [{"type": "compaction", "encrypted_content": "c2ltdWxhdGVkIGNvbXBhY3Rpb24="}],
        "usage": usage_object(exchange.plan.usage),
    }
    response = json_response(body, fields=_fields(exchange))
    events = [Event(event.data, "completed") for event in response.events]
    return Response(200, response.fields, events, finish=finish)


def models(exchange: Exchange) -> Response:
    """``GET /backend-api/codex/models``, with support for ``If-None-Match``."""
    body = _models_body()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    fields = (("ETag", etag), *_fields(exchange))
    if exchange.head.field("If-None-Match") == etag:
        return Response(304, fields)
    return Response(200, (("Content-Type", "application/json"), *fields), (Event(body),))


@functools.cache
def _models_body() -> bytes:
    return json.dumps({"models": [_model(slug, index) for index, slug in enumerate(MODEL_SLUGS)]}).encode()


def _model(slug: str, priority: int) -> dict[str, Any]:
    """Return a model's entry with all the members that Codex requires."""
    efforts = ("low", "medium", "high")
    return {
        "slug": slug,
        "display_name": slug,
        "description": "A simulated model.",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [{"effort": each, "description": each.capitalize()} for each in efforts],
        "shell_type": "shell_command",
        "visibility": "list",
        "minimal_client_version": "0.60.0",
        "supported_in_api": True,
        "priority": priority,
        "availability_nux": None,
        "upgrade": None,
        "base_instructions": "You are a simulated coding agent.",
        "supports_reasoning_summaries": True,
        "default_reasoning_summary": "auto",
        "support_verbosity": True,
        "default_verbosity": "medium",
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "supports_parallel_tool_calls": True,
        "context_window": 272000,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"],
        "prefer_websockets": False,
    }


def search(exchange: Exchange) -> Response:
    """``POST /backend-api/codex/alpha/search``."""
    exchange.object()
    result = {"title": "A simulated result", "url": "https://example.com/", "snippet": "Nothing was searched."}
    return json_response({"results": [result]}, fields=_fields(exchange))


def trace_summarize(exchange: Exchange) -> Response:
    """``POST /backend-api/codex/memories/trace_summarize``."""
    traces = exchange.object().get("traces")
    count = len(traces) if isinstance(traces, list) else 0
    summary = {"raw_memory": "A simulated memory.", "memory_summary": "Simulated."}
    return json_response({"output": [summary] * count}, fields=_fields(exchange))


def call(exchange: Exchange) -> Response:
    """``POST /backend-api/codex/realtime/calls``: answers an offer of a call over WebRTC, which does not take place."""
    head = (("Content-Type", "application/sdp"), ("Location", f"/v1/realtime/calls/{new_id('rtc')}"))
    return Response(201, (*head, *_fields(exchange)), (Event(b"v=0\r\n"),))


def trace(exchange: Exchange) -> Response:
    """Any ``TRACE``: returns the request as it arrived, credential included (RFC 9110 section 9.3.8)."""
    head = exchange.head
    lines = [f"{head.method} {head.target} {head.http_version}", *(f"{name}: {value}" for name, value in head.fields)]
    return Response(200, (("Content-Type", "message/http"),), (Event("\r\n".join([*lines, "", ""]).encode("latin-1")),))


def unknown(exchange: Exchange) -> Response:
    """Any other path below the Codex base."""
    return json_response({"detail": "Not Found"}, status=404)


def usage(exchange: Exchange) -> Response:
    """``GET /backend-api/wham/usage`` (CODEX.md 6)."""
    return json_response(ratelimits.usage_page(exchange.rate_limits, exchange.world.journal.clock()))


def accounts_check(exchange: Exchange) -> Response:
    """``GET /backend-api/wham/accounts/check`` (CODEX.md 6)."""
    account = {
        "id": exchange.account,
        "name": None,
        "structure": "personal",
        "plan_type": exchange.rate_limits.get("plan_type", "plus"),
        "workspace_backend_origin": "NO_CONSTRAINT",
        "account_routing_override": "NO_CONSTRAINT",
    }
    return json_response(
        {"accounts": [account], "account_ordering": [exchange.account], "default_account_id": exchange.account}
    )


def private(exchange: Exchange) -> Response:
    """Private data behind the same credential. Always 200, even without a credential, so that leaks show."""
    item = {"id": "conv-1", "title": PRIVATE_MARKER, "create_time": exchange.world.journal.clock()}
    return json_response({"items": [item], "total": 1, "limit": 28, "offset": 0})


def not_found(_: Exchange) -> Response:
    """A path that is not simulated."""
    return error_response(404, "not_found", "The simulator has nothing here.")
