"""The real Codex client with a pool of accounts, one of which is used up in the middle of a task."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Plan
from ocm_wsgi.simulator.shapes import usage_limit_reached
from tests.clients.codex import run_codex
from tests.pools.test_pool import rows, start

TOKEN = "sk-ocm-alice-0123456789abcdef"
TEXT = "The work went on."
MARKER = "marker-of-the-tool"
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "shell_command",
    "arguments": json.dumps({"command": f"echo {MARKER}"}),
    "status": "completed",
}


@pytest.mark.parametrize("websockets", [False, True], ids=["sse", "websocket"])
def test_the_account_is_used_up_in_mid_session(service: Any, tmp_path: Path, websockets: bool) -> None:
    """Between a tool's call and its result: the other account goes on, and the person sees nothing but the answer."""
    running = start(service, "ab", strategy="round-robin")
    simulator = running.simulator
    refusal = usage_limit_reached(resets_at=int(time.time()) + 5000)
    simulator.plan(Plan(output=[CALL]), account="acct-a")
    simulator.account_plans["acct-a"] = refusal
    simulator.account_plans["acct-b"] = Plan(text=TEXT)
    result = run_codex(
        f"{running.url}/v1", TOKEN, "run the tool", home=tmp_path / "home", websockets=websockets, retries=True
    )
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr
    assert "usage limit" not in result.stderr
    served = [turn.account for turn in simulator.turns if turn.status == "completed"]
    assert served == ["acct-a", "acct-b"]
    if websockets:
        # The new WebSocket knows nothing of the old one's responses: the whole task is sent again.
        assert simulator.creates[-1].previous_response_id is None
    else:
        body = simulator.requests[-1].body.decode()
        assert MARKER in body
        assert "function_call_output" in body
    assert [row for row in rows(running) if row[1] == 200] == [("a", 200), ("b", 200)]
