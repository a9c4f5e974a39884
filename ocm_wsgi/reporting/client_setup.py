"""The configuration that a client needs to reach the service. Pure; no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass

#: As in the README and the demo. It is not a configuration key.
TOKEN_VARIABLE = "OCM_BEARER_TOKEN"  # noqa: S105 - the name of an environment variable
PLACEHOLDER = "sk-ocm-..."

#: Codex tries a WebSocket first, and falls back to HTTP immediately if the server responds with 426.
SUPPORTS_WEBSOCKETS = True


@dataclass(frozen=True)
class ClientConfiguration:
    """Text for users to paste.

    :ivar codex: for ``~/.codex/config.toml``.
    :ivar environment: the shell command that sets the bearer token.
    :ivar python: for the openai library.
    """

    codex: str
    environment: str
    python: str

    @property
    def shell(self) -> str:
        """Shell commands that set the bearer token and start Codex."""
        return f"{self.environment}\ncodex\n"


def client_configuration(base_url: str, bearer_token: str = PLACEHOLDER) -> ClientConfiguration:
    """Return the client configuration, for Codex 0.134 and newer."""
    # A JSON string is a TOML basic string. The name must not be "OpenAI", which Codex treats specially.
    codex = f"""\
model_provider = "ocm"

[model_providers.ocm]
name = "OCM"
base_url = {json.dumps(base_url)}
env_key = "{TOKEN_VARIABLE}"
env_key_instructions = "Ask the owner of the service for your token."
wire_api = "responses"
supports_websockets = {json.dumps(SUPPORTS_WEBSOCKETS)}
"""
    python = f"""\
import os
from openai import OpenAI

client = OpenAI(base_url={json.dumps(base_url)}, api_key=os.environ["{TOKEN_VARIABLE}"])
"""
    return ClientConfiguration(codex, f"export {TOKEN_VARIABLE}={bearer_token}", python)
