"""``flask ocm client-config``: what a user pastes on their machine."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import click

from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import USER_NAME, json_option
from ocm_wsgi.cli.state import open_state
from ocm_wsgi.config import Config

#: As in the README and the demo. Not a key of the configuration.
TOKEN_VARIABLE = "OCM_BEARER_TOKEN"  # noqa: S105 - the name of a variable
PLACEHOLDER = "sk-ocm-..."

#: Codex tries a WebSocket first, and goes on over HTTP at once where the server in use answers 426.
SUPPORTS_WEBSOCKETS = True


def default_base_url(config: Config) -> str:
    """The address that the service itself listens on."""
    host = f"[{config.listen}]" if ":" in config.listen else config.listen
    return f"{'https' if config.tls else 'http'}://{host}:{config.listen_port}/v1"


@click.command("client-config")
@click.argument("name", type=USER_NAME)
@click.option(
    "--base-url",
    metavar="URL",
    help="Where the user reaches the service, such as https://ocm.example.com/v1. Default: where it listens.",
)
@json_option
def client_config(name: str, base_url: str | None, as_json: bool) -> None:
    """Print what the user NAME pastes into Codex's configuration, and how to start it; and for the openai library.

    For Codex 0.134 and newer. The token is not in it: it was shown when it was made, and is kept nowhere.

    \b
    Examples:
      flask ocm client-config alice --base-url https://ocm.example.com/v1
    """
    state = open_state()
    state.accounts.show(name)
    url = _checked(base_url) if base_url else default_base_url(state.config)
    provider = _provider(url)
    config_toml = f'model_provider = "ocm"\n\n{provider}'
    environment = f"export {TOKEN_VARIABLE}={PLACEHOLDER}"
    python = _python(url)
    if as_json:
        echo_json(
            {
                "name": name,
                "base_url": url,
                "token_variable": TOKEN_VARIABLE,
                "config_toml": config_toml,
                "environment": environment,
                "python": python,
            }
        )
        return
    click.echo(
        f"""\
# For {name}. The token ({PLACEHOLDER}) was shown when it was made; rotate-token makes another.

## Codex, always through this service

At the top of ~/.codex/config.toml the first line, and at its end the rest:

{_indented(config_toml)}
Then:

{_indented(environment)}
    codex

## Codex, only when asked

The same lines in a file of their own, ~/.codex/ocm.config.toml, and then:

{_indented(environment)}
    codex -p ocm

## The openai library

{_indented(python)}""",
        nl=False,
    )


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.BadParameter("write an address such as https://ocm.example.com/v1.", param_hint="--base-url")
    url = base_url.rstrip("/")
    return url if parts.path.rstrip("/") else f"{url}/v1"


def _provider(url: str) -> str:
    # TOML's basic strings are JSON's. The name must not be "OpenAI": to Codex that means more than a name.
    return f"""\
[model_providers.ocm]
name = "OCM"
base_url = {json.dumps(url)}
env_key = "{TOKEN_VARIABLE}"
env_key_instructions = "Ask the owner of the service for your token."
wire_api = "responses"
supports_websockets = {json.dumps(SUPPORTS_WEBSOCKETS)}
"""


def _python(url: str) -> str:
    return f"""\
import os
from openai import OpenAI

client = OpenAI(base_url={json.dumps(url)}, api_key=os.environ["{TOKEN_VARIABLE}"])
"""


def _indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.rstrip("\n").split("\n"))
