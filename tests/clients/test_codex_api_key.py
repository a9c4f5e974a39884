"""The real Codex client with a service whose owner has an API key, where OpenAI would store responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Plan, Simulator
from tests.clients.codex import run_codex
from tests.ownership.test_access import owners

BEARER_TOKEN = "sk-ocm-alice-with-codex"
REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "Z0FBQUFB"}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "exec_command",
    "arguments": json.dumps({"cmd": "true"}),
    "status": "completed",
}


@pytest.mark.parametrize("websockets", [False, True], ids=["sse", "websocket"])
def test_a_turn_with_a_tool(service: Any, simulator: Simulator, tmp_path: Path, websockets: bool) -> None:
    """Codex sends its history back, with reasoning and calls; none of it counts as another user's object.

    It asks OpenAI to store nothing, so the service records no owner.
    """
    running = service(
        credential={"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}, users={"alice": BEARER_TOKEN}
    )
    simulator.plan(Plan(output=[REASONING, CALL]), path="/v1/responses")
    simulator.plan(Plan(text="Done."), path="/v1/responses")
    result = run_codex(f"{running.url}/v1", BEARER_TOKEN, "run it", home=tmp_path / "codex-home", websockets=websockets)
    assert (result.returncode, result.stdout.strip()) == (0, "Done."), result.stderr
    assert [turn.status for turn in simulator.turns] == ["completed", "completed"]
    assert owners(running) == {}
