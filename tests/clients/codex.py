"""The real Codex client, run once and without a person, on a configuration of its own.

Knows how to start it and keep it to itself; what it says and does is for the tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / ".cache/codex/node_modules/.bin/codex"
# Of those bundled with the pinned release; for an unknown one Codex warns of missing metadata.
MODEL = "gpt-5.5"
_NO_RETRIES = "request_max_retries = 0\nstream_max_retries = 0"


def run_codex(
    base_url: str,
    bearer_token: str,
    prompt: str,
    *,
    home: Path,
    websockets: bool = False,
    authority: Path | None = None,
    retries: bool = False,
    timeout_seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``codex exec`` with one prompt and wait for its end.

    :param base_url: of the provider, with its ``/v1``.
    :param home: an empty directory, or one that an earlier run has used; becomes ``HOME`` and ``CODEX_HOME``.
    :param websockets: whether the provider claims to speak them.
    :param authority: a file of the one root certificate to trust, for TLS.
    :param retries: whether a failure is tried again as often as Codex does by default; without, it shows at once.
    :return: exit status 0 or 1, the model's text on stdout, everything else on stderr.
    """
    environ = prepare_home(home, base_url, bearer_token, websockets=websockets, authority=authority, retries=retries)
    options = ["--strict-config", "--skip-git-repo-check", "--ephemeral", "--sandbox=read-only"]
    command = [str(PROGRAM), "exec", *options, prompt]
    # Codex is a Node script that starts the real program: a session of their own, to end both where they hang.
    with subprocess.Popen(
        command,
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            pytest.fail(f"Codex did not end within {timeout_seconds} s.\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def prepare_home(
    home: Path,
    base_url: str,
    bearer_token: str,
    *,
    websockets: bool,
    authority: Path | None,
    retries: bool,
) -> dict[str, str]:
    """Write a configuration into `home`; return the whole environment for Codex. Parameters as of :func:`run_codex`.

    Nothing of the developer's own Codex, proxies or keys comes along.
    """
    assert PROGRAM.exists(), "Codex is not installed: `make test` does it"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(_configuration(base_url, websockets=websockets, retries=retries))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CODEX_HOME": str(home),
        "OCM_BEARER_TOKEN": bearer_token,
        "TZ": "UTC",
        **({"CODEX_CA_CERTIFICATE": str(authority)} if authority else {}),
    }


def _configuration(base_url: str, *, websockets: bool, retries: bool) -> str:
    """Return a ``config.toml`` for a provider behind `base_url`; nothing else is on the network."""
    return f"""
model = "{MODEL}"
model_provider = "ocm"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false # would fetch a list from GitHub

[model_providers.ocm]
name = "OCM"
base_url = {json.dumps(base_url)}
env_key = "OCM_BEARER_TOKEN"
wire_api = "responses"
supports_websockets = {json.dumps(websockets)}
{"" if retries else _NO_RETRIES}
"""
