"""What a client needs to reach the service: for the command line and the dashboard. Pure; no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass

#: As in the README and the demo. Not a key of the configuration.
TOKEN_VARIABLE = "OCM_BEARER_TOKEN"  # noqa: S105 - the name of a variable
PLACEHOLDER = "sk-ocm-..."

#: Codex tries a WebSocket first, and goes on over HTTP at once where the server in use answers 426.
SUPPORTS_WEBSOCKETS = True


@dataclass(frozen=True)
class ClientConfiguration:
    """What to paste.

    :ivar codex: for ``~/.codex/config.toml``.
    :ivar environment: the shell's line that sets the bearer token.
    :ivar python: for the openai library.
    """

    codex: str
    environment: str
    python: str

    @property
    def shell(self) -> str:
        """To set the bearer token and start Codex."""
        return f"{self.environment}\ncodex\n"


def client_configuration(base_url: str, bearer_token: str = PLACEHOLDER) -> ClientConfiguration:
    """Write it, for Codex 0.134 and newer."""
    # TOML's basic strings are JSON's. The name must not be "OpenAI": to Codex that means more than a name.
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
