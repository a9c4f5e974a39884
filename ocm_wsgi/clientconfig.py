"""What a client needs to reach the service: for the dashboard. The command line writes the same."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ocm_wsgi.cli.client import PLACEHOLDER, SUPPORTS_WEBSOCKETS, TOKEN_VARIABLE


@dataclass(frozen=True)
class ClientConfiguration:
    """What to paste.

    :ivar codex: for ``~/.codex/config.toml``.
    :ivar shell: to set the bearer token and start Codex.
    :ivar python: for the openai library.
    """

    codex: str
    shell: str
    python: str


def client_configuration(base_url: str, bearer_token: str = PLACEHOLDER) -> ClientConfiguration:
    """Write it, for Codex 0.134 and newer."""
    # TOML's basic strings are JSON's. The name must not be "OpenAI": to Codex that means more than a name.
    codex = f"""\
model_provider = "ocm"

[model_providers.ocm]
name = "OCM"
base_url = {json.dumps(base_url)}
env_key = "{TOKEN_VARIABLE}"
wire_api = "responses"
supports_websockets = {json.dumps(SUPPORTS_WEBSOCKETS)}
"""
    shell = f"export {TOKEN_VARIABLE}={bearer_token}\ncodex\n"
    python = f"""\
import os
from openai import OpenAI

client = OpenAI(base_url={json.dumps(base_url)}, api_key=os.environ["{TOKEN_VARIABLE}"])
"""
    return ClientConfiguration(codex, shell, python)
