"""OpenAI's own library for Node.js: right answers, and right rows in the ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from ocm_wsgi.simulator import Plan
from tests.clients.codex import MODULES
from tests.conftest import ALICE, ServiceFactory
from tests.relay.test_websocket_turns import recorded

SCRIPT = Path(__file__).parent / "openai_node.mjs"


def test_responses(service: ServiceFactory, tmp_path: Path) -> None:
    """A response is streamed, another one arrives over a WebSocket, and a chat completion is refused with its code."""
    running = service(workers=1)
    running.simulator.plan(Plan(text="Streamed.", usage={"input_tokens": 1, "output_tokens": 11}))
    running.simulator.plan(Plan(text="In a message.", usage={"input_tokens": 1, "output_tokens": 22}))
    # Node.js looks for packages beside the script, wherever it was started.
    script = tmp_path / SCRIPT.name
    shutil.copy(SCRIPT, script)
    (tmp_path / "node_modules").symlink_to(MODULES)
    command = ["node", str(script), f"{running.url}/v1", ALICE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "streamed": "Streamed.",
        "webSocket": ["main", "In a message."],
        "refused": [400, "endpoint_unavailable"],
    }
    assert recorded(running) == [("gpt-5.5", "completed", "", 11), ("gpt-5.5", "completed", "", 22)]
