"""``flask ocm client-config``: what a user pastes on their machine."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import USER_NAME, json_option
from ocm_wsgi.cli.state import open_state
from ocm_wsgi.config import Config
from ocm_wsgi.reporting.client_setup import PLACEHOLDER, TOKEN_VARIABLE, client_configuration


def default_base_url(config: Config) -> str:
    """The address that the service itself listens on."""
    host = f"[{config.listen}]" if ":" in config.listen else config.listen
    return f"{'https' if config.tls else 'http'}://{host}:{config.listen_port}/v1"


@click.command("client-config", short_help="Print what the user NAME pastes on their machine.")
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
    client = client_configuration(url)
    if as_json:
        echo_json(
            {
                "name": name,
                "base_url": url,
                "token_variable": TOKEN_VARIABLE,
                "config_toml": client.codex,
                "environment": client.environment,
                "python": client.python,
            }
        )
        return
    click.echo(
        f"""\
# For {name}. The token ({PLACEHOLDER}) was shown when it was made; rotate-token makes another.

## Codex, always through this service

At the top of ~/.codex/config.toml the first line, and at its end the rest:

{_indented(client.codex)}
Then:

{_indented(client.environment)}
    codex

## Codex, only when asked

The same lines in a file of their own, ~/.codex/ocm.config.toml, and then:

{_indented(client.environment)}
    codex -p ocm

## The openai library

{_indented(client.python)}""",
        nl=False,
    )


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.BadParameter("write an address such as https://ocm.example.com/v1.", param_hint="--base-url")
    url = base_url.rstrip("/")
    return url if parts.path.rstrip("/") else f"{url}/v1"


def _indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.rstrip("\n").split("\n"))
