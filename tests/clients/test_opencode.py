"""The real opencode client, configured as in docs/clients.md: right answers, and right rows in the ledger."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ocm_wsgi.simulator import Plan, Simulator
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from tests.clients.codex import MODULES
from tests.clients.test_codex_api_key import REASONING
from tests.conftest import ALICE, REPOSITORY, RunningService, ServiceFactory
from tests.ownership.test_access import owners

# npm installs the one for this machine.
PACKAGE = "opencode-linux-arm64" if platform.machine() == "aarch64" else "opencode-linux-x64-baseline"
PROGRAM = MODULES / PACKAGE / "bin/opencode"
#: As in opencode's own list, which takes a second to read. By default, the second model would write titles.
MODELS = {
    name: {
        "id": name,
        "name": name,
        "release_date": "2026-03-05",
        "attachment": True,
        "reasoning": True,
        "temperature": False,
        "tool_call": True,
        "limit": {"context": 400_000, "output": 128_000},
        "family": family,
    }
    for name, family in {"gpt-5.5": "gpt", "gpt-5.4-nano": "gpt-nano"}.items()
}
PROVIDERS = {"openai": {"id": "openai", "name": "OpenAI", "env": [], "npm": "@ai-sdk/openai", "models": MODELS}}


def run_opencode(running: RunningService, home: Path, *arguments: str) -> str:
    """Run ``opencode run`` to its end; return its stdout, which is the model's text.

    :param home: its working directory and home.
    """
    assert PROGRAM.exists(), "opencode is not installed: `make test` does it"
    found = re.search(
        r"`~/(\S+/opencode\.json)`.*?```json\n(.*?)```", (REPOSITORY / "docs" / "clients.md").read_text(), re.DOTALL
    )
    assert found is not None
    configuration = home / found[1]
    configuration.parent.mkdir(parents=True)
    configuration.write_text(found[2].replace("https://ocm.example.com", running.url))
    models = home / "models.json"
    models.write_text(json.dumps(PROVIDERS))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OCM_BEARER_TOKEN": ALICE,
        "OPENCODE_MODELS_PATH": str(models),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        # Nothing listens on this port: what else opencode wants from the network fails at once.
        "HTTPS_PROXY": "http://127.0.0.1:1",
    }
    result = subprocess.run(
        [str(PROGRAM), "run", *arguments],
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def rows(running: RunningService) -> list[tuple[Any, ...]]:
    """Return what the ledger has of each turn, in the order they ended."""
    turn = db.turn.c
    columns = (turn.model, turn.status, turn.input_tokens, turn.cached_tokens, turn.output_tokens, turn.estimated)
    with Database(f"sqlite:///{running.settled_database()}").read() as connection:
        order = turn.started_at + turn.duration_ms / 1000.0
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(order))]


def test_api_key(service: ServiceFactory, simulator: Simulator, tmp_path: Path) -> None:
    """A file is read by a tool, and the history comes back with reasoning and a call, which nobody owns.

    opencode accepts ``br`` as well, in which OpenAI would answer; the usage of such an answer could not be read.
    """
    credential = {"auth_mode": "apikey", "OPENAI_API_KEY": simulator.api_key()}
    running = service(workers=1, credential=credential)
    home = tmp_path / "opencode"
    home.mkdir()
    (home / "notes.txt").write_text("The word is marzipan.")
    call = {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": "read",
        "arguments": json.dumps({"filePath": str(home / "notes.txt")}),
        "status": "completed",
    }
    usage = {"input_tokens": 1000, "cached_tokens": 100, "output_tokens": 11}
    simulator.plan(Plan(output=[REASONING, call], usage=usage))
    simulator.plan(Plan(text="Marzipan.", usage={"input_tokens": 2000, "cached_tokens": 1024, "output_tokens": 22}))
    assert run_opencode(running, home, "--title", "A word", "What is the word?") == "Marzipan."
    assert rows(running) == [
        ("gpt-5.5", "completed", 1000, 100, 11, False),
        ("gpt-5.5", "completed", 2000, 1024, 22, False),
    ]
    first, second = simulator.requests
    assert "marzipan" not in first.body.decode()
    assert "The word is marzipan." in second.body.decode()
    assert str(REASONING["encrypted_content"]) in second.body.decode()
    assert {first.field("Accept-Encoding"), second.field("Accept-Encoding")} == {"gzip, deflate, zstd"}
    assert owners(running) == {}


def test_chatgpt(service: ServiceFactory, simulator: Simulator, tmp_path: Path) -> None:
    """With a ChatGPT sign-in, neither the answer nor the session's title is refused for a parameter or the model."""
    running = service(workers=1)
    home = tmp_path / "opencode"
    home.mkdir()
    simulator.default_plan = Plan(text="Hello, Alice.", usage={"input_tokens": 1000, "output_tokens": 11})
    assert run_opencode(running, home, "Say hello.") == "Hello, Alice."
    assert rows(running) == [("gpt-5.5", "completed", 1000, 0, 11, False)] * 2
