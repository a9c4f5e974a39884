"""The ChatGPT side: turns, authentication, and Codex's other requests."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
import zstandard

from ocm_wsgi.simulator import DEFAULT_TEXT, PRIVATE_MARKER, Plan, Simulator
from ocm_wsgi.simulator.backend import UNSUPPORTED_PARAMETERS
from ocm_wsgi.simulator.shapes import SHAPES
from tests.simulator.simulator_clients import TURN, call, events_of, owner_fields, said, sha256, take_turn


def test_responses_streams_the_events_of_a_turn(sim: Simulator) -> None:
    """A turn has the real backend's sequence of events, and contains the text."""
    reply = take_turn(sim)
    kinds = [event["type"] for event in events_of(reply.body)]
    assert reply.status == 200
    assert (reply.field("Content-Type") or "").startswith("text/event-stream")
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert said(reply.body) == DEFAULT_TEXT


def test_completed_reports_usage_model_and_tier(sim: Simulator) -> None:
    """The terminal event has what accounting needs, and the simulator records the same."""
    usage = {"input_tokens": 100, "cached_tokens": 80, "output_tokens": 9, "reasoning_tokens": 4}
    sim.plan(Plan(usage=usage))
    response = events_of(take_turn(sim, service_tier="priority").body)[-1]["response"]
    assert response["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 80},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 109,
    }
    assert (response["model"], response["service_tier"]) == ("gpt-5.5", "priority")
    (turn,) = sim.turns
    assert (turn.input_tokens, turn.cached_tokens, turn.output_tokens, turn.reasoning_tokens) == (100, 80, 9, 4)
    assert (turn.model, turn.service_tier, turn.transport, turn.account, turn.status) == (
        "gpt-5.5",
        "priority",
        "sse",
        "acct-owner",
        "completed",
    )
    assert turn.response_id == response["id"]


@pytest.mark.parametrize(
    ("plan", "last", "status", "tokens"),
    [
        pytest.param(Plan(usage=None), "response.completed", "completed", 0, id="no-usage"),
        pytest.param(Plan(terminal="incomplete"), "response.incomplete", "incomplete", 1234, id="incomplete"),
        pytest.param(Plan(terminal="failed"), "response.failed", "failed", 1234, id="failed"),
        pytest.param(Plan(terminal="error"), "error", "failed", 0, id="error"),
        pytest.param(Plan(terminal=None), "response.output_item.done", "cut", 0, id="no-terminal"),
    ],
)
def test_terminal_decides_how_a_turn_ends(sim: Simulator, plan: Plan, last: str, status: str, tokens: int) -> None:
    """Each planned end is sent and recorded as such."""
    sim.plan(plan)
    assert events_of(take_turn(sim).body)[-1]["type"] == last
    assert sim.wait_for(lambda: sim.turns)
    assert [(turn.status, turn.input_tokens) for turn in sim.turns] == [(status, tokens)]


def test_text_model_and_events_follow_the_plan(sim: Simulator) -> None:
    """The plan determines the text, the number of padded deltas, and the model."""
    sim.plan(Plan(text="one two three", events=7, event_bytes=50, model="gpt-other", service_tier="flex"))
    body = take_turn(sim).body
    deltas = [event for event in events_of(body) if event["type"] == "response.output_text.delta"]
    assert len(deltas) == 7
    assert all(len(delta["obfuscation"]) == 50 for delta in deltas)
    assert said(body).startswith("one two three")
    assert events_of(body)[-1]["response"]["output"][0]["content"][0]["text"] == said(body)
    assert (sim.turns[0].model, sim.turns[0].service_tier) == ("gpt-other", "flex")


def test_compaction_trigger_gets_one_compaction_item(sim: Simulator) -> None:
    """A request that ends with a compaction trigger gets exactly one compaction item and no message."""
    response = events_of(take_turn(sim, input=[{"type": "compaction_trigger"}]).body)[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["compaction"]


def test_output_items_follow_the_plan(sim: Simulator) -> None:
    """A plan's output items replace the message."""
    call_item = {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": "{}"}
    sim.plan(Plan(output=[call_item]))
    done = [event for event in events_of(take_turn(sim).body) if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == [call_item]


def test_responses_refuses_what_is_not_streamed(sim: Simulator) -> None:
    """The ChatGPT backend rejects requests that are not streamed."""
    reply = take_turn(sim, stream=False)
    assert (reply.status, reply.json) == (400, {"detail": "Stream must be set to true"})
    assert sim.turns == []


@pytest.mark.parametrize("name", [*UNSUPPORTED_PARAMETERS, "previous_response_id"])
def test_parameters_of_the_platform_are_refused(sim: Simulator, name: str) -> None:
    """Parameters that only the platform supports are refused by name; null is the same as nothing."""
    given: dict[str, Any] = {name: 0}
    reply = take_turn(sim, **given)
    assert (reply.status, reply.json) == (400, {"detail": f"Unsupported parameter: {name}"})
    assert sim.turns == []
    given = {name: None}
    assert take_turn(sim, **given).status == 200


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate"])
def test_request_body_may_be_encoded(sim: Simulator, encoding: str) -> None:
    """An encoded body is decoded, but recorded as sent."""
    plain = json.dumps(TURN).encode()
    compressor = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    packed = (
        zstandard.ZstdCompressor().compress(plain)
        if encoding == "zstd"
        else compressor.compress(plain) + compressor.flush()
    )
    fields = {**owner_fields(sim.credential()), "Content-Encoding": encoding}
    assert call(sim, "POST", "/backend-api/codex/responses", body=packed, fields=fields).status == 200
    assert (sim.requests[0].body, sim.requests[0].body_sha256) == (packed, sha256(packed))


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_unreadable_body_is_refused(sim: Simulator, body: bytes) -> None:
    """A body that is not a JSON object gets 400."""
    fields = owner_fields(sim.credential())
    assert call(sim, "POST", "/backend-api/codex/responses", body=body, fields=fields).status == 400
    fields["Content-Encoding"] = "zstd"
    assert call(sim, "POST", "/backend-api/codex/responses", body=body, fields=fields).status == 400


def test_rate_limits_are_in_the_response_fields(sim: Simulator) -> None:
    """The fields report the windows of the simulator or the plan."""
    sim.plan(Plan())
    sim.plan(Plan(rate_limits={"primary": {"used_percent": 99, "window_minutes": 300, "reset_at": 1}}))
    sim.plan(Plan(rate_limits={}))
    first, second, third = (take_turn(sim) for _ in range(3))
    assert first.field("x-codex-primary-used-percent") == "12"
    assert first.field("x-codex-secondary-window-minutes") == "10080"
    assert (second.field("x-codex-primary-used-percent"), second.field("x-codex-secondary-used-percent")) == (
        "99",
        None,
    )
    assert not [name for name, _ in third.fields if name.startswith("x-codex-")]


def test_request_needs_the_token_and_its_account(sim: Simulator) -> None:
    """Missing, unknown, expired, revoked and mismatched credentials get the backend's different errors."""
    fields = owner_fields(sim.credential())
    token = fields["Authorization"].removeprefix("Bearer ")

    def answer(**changes: str) -> tuple[int, object]:
        reply = call(sim, "POST", "/backend-api/codex/responses", body=TURN, fields={**fields, **changes})
        return reply.status, (reply.json.get("error") or {}).get("code") if reply.status != 200 else None

    assert answer() == (200, None)
    assert answer(Authorization="") == (401, None)
    assert answer(Authorization="Bearer nonsense") == (401, "token_invalidated")
    assert answer(**{"ChatGPT-Account-Id": "acct-other"}) == (401, None)
    sim.expire(token)
    assert answer() == (401, "token_expired")
    sim.revoke_all()
    assert answer() == (401, "token_invalidated")
    fields = owner_fields(sim.credential(expires_in=-1))
    assert answer() == (401, "token_expired")


def test_refused_request_takes_no_plan(sim: Simulator) -> None:
    """Plans stay queued until an authorized request."""
    sim.plan(Plan(text="kept"))
    assert call(sim, "POST", "/backend-api/codex/responses", body=TURN).status == 401
    assert said(take_turn(sim).body) == "kept"


def test_models_are_listed_with_an_etag(sim: Simulator) -> None:
    """Codex's own list of models can be revalidated."""
    fields = owner_fields(sim.credential())
    reply = call(sim, "GET", "/backend-api/codex/models?client_version=0.169.0", fields=fields)
    etag = reply.field("ETag") or ""
    assert reply.json["models"][0]["slug"]
    again = call(sim, "GET", "/backend-api/codex/models", fields={**fields, "If-None-Match": etag})
    assert (again.status, again.body) == (304, b"")


def test_compact_and_search_answer_json(sim: Simulator) -> None:
    """The two unary endpoints return JSON; compaction counts as a turn."""
    fields = owner_fields(sim.credential())
    compacted = call(sim, "POST", "/backend-api/codex/responses/compact", body={"model": "m"}, fields=fields)
    assert compacted.json["output"][0]["type"] == "compaction"
    assert [(turn.transport, turn.model) for turn in sim.turns] == [("json", "m")]
    assert call(sim, "POST", "/backend-api/codex/alpha/search", body={"q": "x"}, fields=fields).json["results"]
    assert call(sim, "GET", "/backend-api/codex/nothing", fields=fields).status == 404


def test_wham_returns_usage_and_accounts(sim: Simulator) -> None:
    """The usage page shows the simulator's windows; the account check shows the only account."""
    fields = owner_fields(sim.credential())
    sim.rate_limits = {"primary": {"used_percent": 100, "window_minutes": 300, "reset_at": 2**31}}
    usage = call(sim, "GET", "/backend-api/wham/usage", fields=fields).json
    assert usage["rate_limit"]["limit_reached"] is True
    assert usage["rate_limit"]["primary_window"]["limit_window_seconds"] == 18000
    assert usage["rate_limit"]["secondary_window"] is None
    accounts = call(sim, "GET", "/backend-api/wham/accounts/check", fields=fields).json
    assert accounts["default_account_id"] == accounts["accounts"][0]["id"] == "acct-owner"
    assert call(sim, "GET", "/backend-api/wham/usage").status == 401


@pytest.mark.parametrize("path", ["/backend-api/conversations", "/backend-api", "/backend-api/me?x=1"])
def test_private_items_are_marked(sim: Simulator, path: str) -> None:
    """Paths that no proxy may reach return 200 with the marker."""
    reply = call(sim, "GET", path)
    assert (reply.status, PRIVATE_MARKER in reply.body.decode()) == (200, True)


@pytest.mark.parametrize("path", ["remote_control/hosts", "goals", "analytics-events/events"])
def test_private_items_below_the_codex_base(sim: Simulator, path: str) -> None:
    """What the owner's credential opens beside the API is there and marked."""
    reply = call(sim, "GET", f"/backend-api/codex/{path}", fields=owner_fields(sim.credential()))
    assert (reply.status, PRIVATE_MARKER in reply.body.decode()) == (200, True)


@pytest.mark.parametrize("path", ["/backend-api/codex/models", "/v1/models"])
def test_trace_returns_the_credential(sim: Simulator, path: str) -> None:
    """TRACE returns the request as it arrived, which a proxy must not let happen."""
    reply = call(sim, "TRACE", path, fields={"Authorization": "Bearer owner"})
    assert (reply.status, b"Authorization: Bearer owner" in reply.body) == (200, True)


def test_memories_and_voice(sim: Simulator) -> None:
    """A summary for each trace, and an answer to the offer of a call."""
    fields = owner_fields(sim.credential())
    memories = call(sim, "POST", "/backend-api/codex/memories/trace_summarize", body={"traces": [1, 2]}, fields=fields)
    assert len(memories.json["output"]) == 2
    answer = call(sim, "POST", "/backend-api/codex/realtime/calls", body={"sdp": "v=0"}, fields=fields)
    assert (answer.status, answer.body) == (201, b"v=0\r\n")
    assert "/realtime/calls/rtc_" in (answer.field("Location") or "")


#: The others are for the opening handshake and for the refresh.
ANSWERS = [name for name, plan in SHAPES.items() if not plan.upgrade and not plan.cut_at]


@pytest.mark.parametrize("name", ANSWERS)
def test_every_shape_is_answered(sim: Simulator, name: str) -> None:
    """Every shape in the table works over HTTP and has its status."""
    plan = SHAPES[name]
    sim.plan(plan)
    reply = take_turn(sim)
    assert reply.status == (plan.status or 200)
    if plan.json is not None:
        assert reply.json == plan.json
    if plan.terminal == "failed":
        error = events_of(reply.body)[-1]["response"]["error"]
        assert (error["code"], error["message"]) == plan.error


def test_usage_limit_reached_reports_the_full_window(sim: Simulator) -> None:
    """The 429 has the limit's fields, which Codex needs for its message."""
    sim.plan(SHAPES["WEEKLY_LIMIT_REACHED"])
    reply = take_turn(sim)
    assert reply.field("x-codex-secondary-used-percent") == "100"
    assert reply.field("x-codex-active-limit") == "codex"
    assert reply.json["error"]["resets_at"] == int(reply.field("x-codex-secondary-reset-at") or 0)
