"""``ocm client-config``: client configuration for a user to paste."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import USER_NAME, json_option
from ocm_wsgi.cli.state import open_state
from ocm_wsgi.config import Config
from ocm_wsgi.config.cautions import is_clear_text
from ocm_wsgi.reporting.client_setup import PLACEHOLDER, TOKEN_VARIABLE, ClientConfiguration, client_configuration


def default_base_url(config: Config) -> str:
    """Return the base URL of the address that the service listens on."""
    host = f"[{config.listen}]" if ":" in config.listen else config.listen
    return f"{'https' if config.tls else 'http'}://{host}:{config.listen_port}/v1"


@click.command("client-config", short_help="Print client configuration for the user NAME.")
@click.argument("name", type=USER_NAME)
@click.option(
    "--base-url",
    metavar="URL",
    help="The service's URL for the user, such as https://ocm.example.com/v1. Default: its own listen address.",
)
@json_option
def client_config(name: str, base_url: str | None, as_json: bool) -> None:
    """Print configuration for Codex and the openai library, for the user NAME to paste.

    For Codex 0.134 and newer. Does not include the token, which was shown when it was created and is not stored.

    \b
    Examples:
      ocm client-config alice --base-url https://ocm.example.com/v1
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
    if is_clear_text(url):
        click.echo(f"Caution: with {url}, the token and all requests can be read on their way; use TLS.\n", err=True)
    click.echo(_instructions(name, client), nl=False)


def _instructions(name: str, client: ClientConfiguration) -> str:
    return f"""\
# For {name}. The token ({PLACEHOLDER}) was shown when it was created; rotate-token creates another.

## Codex, always through this service

The first line goes at the top of ~/.codex/config.toml, the rest at its end:

{_indented(client.codex)}
Then:

{_indented(client.environment)}
    codex

## Codex, through this service on request

The same lines go into a separate file, ~/.codex/ocm.config.toml. Then:

{_indented(client.environment)}
    codex -p ocm

## The openai library

{_indented(client.python)}"""


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.BadParameter("expected a URL such as https://ocm.example.com/v1.", param_hint="--base-url")
    url = base_url.rstrip("/")
    return url if parts.path.rstrip("/") else f"{url}/v1"


def _indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.rstrip("\n").split("\n"))
