"""``ocm pause`` and ``resume``: take an account out of its pools for a while."""

from __future__ import annotations

import click

from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import ACCOUNT_TAG, json_option
from ocm_wsgi.cli.state import ACTOR, open_state
from ocm_wsgi.config import Config
from ocm_wsgi.pools.blocks import Blocks


@click.command("pause", short_help="Take an account out of its pools.")
@click.argument("tag", type=ACCOUNT_TAG)
@json_option
def pause(tag: str, as_json: bool) -> None:
    """Take the account TAG out of its pools, until it is resumed.

    Turns in progress are finished. The next turn of each conversation goes to another account, within a second.

    \b
    Example:
      ocm pause work
    """
    state = open_state()
    _require_pool(state.config, tag)
    Blocks(state.database).pause(tag, actor=ACTOR)
    if as_json:
        echo_json({"tag": tag, "paused": True})
    else:
        click.echo(f"Paused {tag}. Its conversations go to other accounts: ocm resume {tag} ends that.")


@click.command("resume", short_help="Use a paused or blocked account again.")
@click.argument("tag", type=ACCOUNT_TAG)
@json_option
def resume(tag: str, as_json: bool) -> None:
    """Use the account TAG again, whether it was paused or OpenAI has refused it.

    \b
    Example:
      ocm resume work
    """
    state = open_state()
    was_blocked = Blocks(state.database).resume(tag, actor=ACTOR)
    if as_json:
        echo_json({"tag": tag, "was_blocked": was_blocked})
    else:
        click.echo(f"{tag} is used again." if was_blocked else f"{tag} was neither paused nor blocked.")


def _require_pool(config: Config, tag: str) -> None:
    if not any(tag in pool.members for pool in config.pools):
        raise click.UsageError(f"{tag} is in no pool: no other account could serve its users.")
