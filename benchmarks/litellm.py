"""LiteLLM's proxy with a ChatGPT subscription as its only model, a master key, and no database."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import wire
from benchmarks.others import Kind, Prepared, host_and_port
from benchmarks.servers import BEARER_TOKEN, WORKERS, Upstream
from benchmarks.service import owner_credential

_CONFIGURATION = "config.yaml"


def _prepare(behind: Upstream, folder: Path, address: tuple[str, int]) -> Prepared:
    """Write a credential and a configuration."""
    (folder / "auth.json").write_text(json.dumps(owner_credential()["tokens"]))
    configuration = {
        "model_list": [{"model_name": wire.MODEL, "litellm_params": {"model": f"chatgpt/{wire.MODEL}"}}],
        "general_settings": {"master_key": BEARER_TOKEN},
    }
    (folder / _CONFIGURATION).write_text(json.dumps(configuration))  # JSON is valid YAML
    environment = {
        "CHATGPT_TOKEN_DIR": str(folder),
        "CHATGPT_API_BASE": f"{behind.scheme}://{behind.authority}{wire.UPSTREAM_PATH.rpartition('/')[0]}",
        # By default it fetches prices from GitHub at startup.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **({"SSL_VERIFY": str(behind.certificate.authority)} if behind.certificate else {}),
    }
    arguments = ("--config", _CONFIGURATION, "--num_workers", str(WORKERS), *host_and_port(address))
    return Prepared(arguments, environment)


KIND = Kind(
    name="litellm",
    title="LiteLLM",
    prepare=_prepare,
    started="Application startup complete",
    workers=WORKERS,
)
