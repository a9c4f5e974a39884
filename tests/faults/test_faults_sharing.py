"""The real Codex and the service use one ``auth.json`` at the same time, through sixty forced refreshes."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocm_wsgi.simulator import Simulator
from tests.clients.codex import MODEL, MODULES
from tests.faults.stack import Stack

#: Rounds of each order. Where one program waits for the other, every round is the same; where they race, none is.
ROUNDS = {"service-first": 5, "codex-first": 5, "together-1": 25, "together-2": 25}


def write_configuration(home: Path, simulator: Simulator) -> None:
    """Configure Codex to use its own ChatGPT sign-in with the simulator."""
    home.joinpath("config.toml").write_text(f"""
model = "{MODEL}"
model_provider = "direct"
check_for_update_on_startup = false
cli_auth_credentials_store = "file"
chatgpt_base_url = "{simulator.url}/backend-api/"

[analytics]
enabled = false

[features]
plugins = false

[model_providers.direct]
name = "Direct"
base_url = "{simulator.chatgpt_base_url}"
requires_openai_auth = true
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
""")


def run_codex(home: Path) -> subprocess.CompletedProcess[str]:
    """Take one turn with Codex, started without the script for Node.js that is around it."""
    programs = [*MODULES.glob("@openai/codex-linux-*/vendor/*/bin/codex")]
    assert programs, "Codex is not installed: `make test` does it"
    return subprocess.run(
        [str(programs[0]), "exec", "--skip-git-repo-check", "--ephemeral", "--sandbox=read-only", "say hi"],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def expire(path: Path, simulator: Simulator) -> None:
    """Replace the access token in the file with an expired one of the same sign-in."""
    content = json.loads(path.read_text())
    content["tokens"]["access_token"] = simulator.credential(expires_in=-60)["tokens"]["access_token"]
    fresh = path.with_name("fresh")
    fresh.write_text(json.dumps(content, indent=2))
    fresh.replace(path)


def presented(simulator: Simulator) -> list[tuple[str, str]]:
    """Return which program presented which refresh token, in order."""
    seen = simulator.seen("/oauth/token")
    return [
        ((each.field("user-agent") or "").partition("/")[0], json.loads(each.body)["refresh_token"]) for each in seen
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("order", "rounds"), ROUNDS.items(), ids=ROUNDS)
def test_one_file_shared_with_the_real_codex(start_stack: Callable[..., Stack], order: str, rounds: int) -> None:
    """In sixty refreshes no turn of either fails, no sign-in is lost, and this service presents no token twice.

    Codex contacts the issuer before it takes the locks, so both may present the same token at the same time, once.
    """
    stack = start_stack(workers=2)
    simulator, home, path = stack.simulator, stack.running.folder, stack.running.credential_path
    write_configuration(home, simulator)

    def ask_service() -> list[tuple[int, bool]]:
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(stack.turn, route="direct") for _ in range(4)]
            return [(answer.result().status, answer.result().has_ended) for answer in answers]

    def ask_codex() -> int:
        return run_codex(home).returncode

    for number in range(1, rounds + 1):
        expire(path, simulator)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask) for ask in (ask_service, ask_codex)] if order.startswith("together") else []
            first, second = (ask_service, ask_codex) if order == "service-first" else (ask_codex, ask_service)
            results = [each.result() for each in asked] or [first(), second()]
        assert sorted(results, key=str) == [0, [(200, True)] * 4]
        assert Counter(refresh.outcome for refresh in simulator.refreshes)["rotated"] == number
        assert json.loads(path.read_text())["tokens"]["refresh_token"] not in {
            token for _, token in presented(simulator)
        }
    times = Counter(presented(simulator))
    assert [each for each, count in times.items() if count > 1] == []
    assert set(times.values()) == {1}
    reused = len(simulator.refreshes) - rounds
    assert reused == 0 or order.startswith("together")
    assert {refresh.outcome for refresh in simulator.refreshes} <= {"rotated", "reused"}
    assert len(simulator.turns) == rounds * 5
