"""Runs the real Codex client once, non-interactively, with its own configuration.

This module starts and isolates the client; the tests check its output and behaviour.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

#: The packages of Node.js.
MODULES = Path(__file__).parents[2] / ".cache/codex/node_modules"
PROGRAM = MODULES / "@openai/codex/bin/codex.js"
#: An earlier release, which many people still use.
EARLIER_PROGRAM = MODULES / "codex-0.169/bin/codex.js"
# One of the models bundled with the pinned release; for unknown models Codex warns about missing metadata.
MODEL = "gpt-5.5"
#: A bundled model of the kind for which Codex interrupts a response without dropping its connection.
LITE_MODEL = "gpt-6-sol"
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
    program: Path = PROGRAM,
    timeout_seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``codex exec`` with one prompt, and wait for it to exit.

    :param base_url: the provider's base URL, including ``/v1``.
    :param home: an empty directory, or that of an earlier run; becomes ``HOME`` and ``CODEX_HOME``.
    :param websockets: whether the provider is configured as supporting WebSockets.
    :param authority: a file with the only root certificate to trust, for TLS.
    :param retries: whether to retry failures as often as Codex does by default, or not at all.
    :param program: the release of Codex.
    :return: exit status 0 or 1, the model's text on stdout, everything else on stderr.
    """
    environ = prepare_home(home, base_url, bearer_token, websockets=websockets, authority=authority, retries=retries)
    options = ["--strict-config", "--skip-git-repo-check", "--ephemeral", "--sandbox=read-only"]
    command = [str(program), "exec", *options, prompt]
    # Codex is a Node script that starts the real program; a separate session allows killing both if they hang.
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
            pytest.fail(f"Codex did not exit within {timeout_seconds} s.\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def prepare_home(
    home: Path,
    base_url: str,
    bearer_token: str,
    *,
    websockets: bool,
    authority: Path | None = None,
    retries: bool = False,
    model: str = MODEL,
) -> dict[str, str]:
    """Write a configuration into `home`; return Codex's complete environment. Parameters as for :func:`run_codex`.

    The developer's own Codex settings, proxies and keys are not used.
    """
    assert PROGRAM.exists(), "Codex is not installed: `make test` does it"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        _configuration(base_url, home, websockets=websockets, retries=retries, model=model)
    )
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CODEX_HOME": str(home),
        "OCM_BEARER_TOKEN": bearer_token,
        "TZ": "UTC",
        **({"CODEX_CA_CERTIFICATE": str(authority)} if authority else {}),
    }


def _configuration(base_url: str, home: Path, *, websockets: bool, retries: bool, model: str) -> str:
    """Return a ``config.toml`` for a provider behind `base_url`; Codex contacts nothing else on the network."""
    return f"""
model = "{model}"
model_provider = "ocm"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false # would download a list from GitHub

[projects.{json.dumps(str(home))}]
trust_level = "trusted"

[model_providers.ocm]
name = "OCM"
base_url = {json.dumps(base_url)}
env_key = "OCM_BEARER_TOKEN"
wire_api = "responses"
supports_websockets = {json.dumps(websockets)}
{"" if retries else _NO_RETRIES}
"""
