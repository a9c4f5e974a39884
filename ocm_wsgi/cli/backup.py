"""``ocm backup`` and ``ocm restore``: moves the state, as a whole, to another machine or another database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ocm_wsgi.cli import saved_credentials
from ocm_wsgi.cli.output import echo_json, utc
from ocm_wsgi.cli.parameters import json_option
from ocm_wsgi.cli.progress import progress_bar
from ocm_wsgi.cli.state import State, open_state
from ocm_wsgi.reporting.status import iso
from ocm_wsgi.transfer.backup import back_up
from ocm_wsgi.transfer.backup_file import Manifest
from ocm_wsgi.transfer.restoration import Backup, read_backup
from ocm_wsgi.transfer.restoration import restore as restore_backup

_F = TypeVar("_F", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path, dir_okay=False)


def _passphrase_option(function: _F) -> _F:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
        metavar="FILE",
        help="Read the passphrase of the credential from the first line of this file (- for standard input).",
    )(function)


@click.command("backup", short_help="Save the state in one file.")
@click.argument("file", type=_PATH)
@click.option("--with-credential", is_flag=True, help="Include the owner's sign-in, encrypted with a passphrase.")
@_passphrase_option
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def backup(file: Path, with_credential: bool, passphrase_file: Path | None, force: bool, as_json: bool) -> None:
    """Save the state in one file: users with the hashes of their tokens, turns, usage, and the audit trail.

    The service may be running: the file has the state of one moment, with the records that wait for the database. It
    is readable by its owner only. It can be restored into SQLite and PostgreSQL, whichever it comes from. The
    configuration is not part of it.

    The owner's sign-in is left out unless --with-credential is given. A copy of it is useful for moving to another
    machine only: it is worth nothing as soon as the service, or Codex, has refreshed its tokens.

    \b
    Examples:
      ocm backup /var/backups/ocm.backup
      ocm backup --with-credential --passphrase-file secret.txt move.backup
    """
    if passphrase_file is not None and not with_credential:
        raise click.UsageError("--passphrase-file is only for --with-credential.")
    state = open_state()
    if file.exists() and not force:
        raise click.ClickException(f"{file} exists already. --force replaces it.")
    credentials = saved_credentials.contents(state.config) if with_credential else None
    passphrase = saved_credentials.passphrase(passphrase_file, confirm=True) if with_credential else ""
    with progress_bar() as progress:
        manifest = back_up(
            state.database,
            state.config.state_path,
            file,
            credentials=credentials,
            passphrase=passphrase,
            progress=progress,
        )
    if as_json:
        echo_json({"file": str(file), **_members(manifest), "credential": with_credential})
    else:
        click.echo(f"Saved {_summary(manifest)} in {file}.")
        click.echo(
            "It contains the owner's sign-in, encrypted. Stop this service before another one uses that."
            if with_credential
            else "The owner's sign-in and the configuration are not in it."
        )


@click.command("restore", short_help="Replace the state with a backup.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--with-credential", is_flag=True, help="Also restore the owner's sign-in, if the backup has it.")
@_passphrase_option
@click.option("--force", is_flag=True, help="Replace a state that is in use, not empty, or damaged.")
@json_option
def restore(file: Path, with_credential: bool, passphrase_file: Path | None, force: bool, as_json: bool) -> None:
    """Replace the state with that of a backup.

    The backup is checked first. The state is then replaced as a whole, in one transaction, and compared with the
    backup before that takes effect: if this is interrupted at any time, nothing has changed. A backup of an earlier
    release is upgraded. Run this as the user of the service.

    A state that is in use or not empty is replaced only with --force. Under a running service that is possible; what
    it records afterwards is added to the restored state.

    \b
    Examples:
      ocm restore ocm.backup
      ocm restore --with-credential --passphrase-file secret.txt move.backup
      OCM_DATABASE_URL=postgresql+psycopg://ocm@/ocm ocm restore ocm.backup
    """
    if passphrase_file is not None and not with_credential:
        raise click.UsageError("--passphrase-file is only for --with-credential.")
    state = open_state()
    with progress_bar() as progress:
        found = read_backup(file, progress)
    documents = saved_credentials.unsealed(found, passphrase_file) if with_credential else {}
    saved_credentials.require_replaceable(documents, state.config, force=force)
    with progress_bar() as progress:
        restore_backup(found, state.database, state.config.state_path, force=force, progress=progress)
    saved_credentials.store(documents, state.config, force=force)
    _report(found, state, as_json=as_json, has_credential=with_credential)


def _report(found: Backup, state: State, *, as_json: bool, has_credential: bool) -> None:
    if as_json:
        echo_json({"file": str(found.path), **_members(found.manifest), "credential": has_credential})
        return
    name = state.database.url.render_as_string(hide_password=True)
    click.echo(f"Restored {_summary(found.manifest)} of {utc(found.manifest.created_at)} into {name}.")
    if has_credential:
        click.echo("The owner's sign-in was restored too. Do not use its copy elsewhere any more.")
    elif found.content.credentials is not None:
        click.echo("The backup also contains the owner's sign-in, which --with-credential restores.")


def _summary(manifest: Manifest) -> str:
    users, turns = (manifest.tables[name].rows if name in manifest.tables else 0 for name in ("user", "turn"))
    return f"{users:,} user{'' if users == 1 else 's'} and {turns:,} turn{'' if turns == 1 else 's'}"


def _members(manifest: Manifest) -> dict[str, Any]:
    rows = {name: checksum.rows for name, checksum in manifest.tables.items()}
    return {"created_at": iso(manifest.created_at), "schema": manifest.schema, "rows": rows}
