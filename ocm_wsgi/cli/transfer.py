"""``ocm export`` and ``ocm import``: users and turns as JSON lines and CSV."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

import click

from ocm_wsgi.cli.output import echo_json
from ocm_wsgi.cli.parameters import PAST, USER_NAME, json_option
from ocm_wsgi.cli.progress import ProgressBar, progress_bar
from ocm_wsgi.cli.state import ACTOR, open_state
from ocm_wsgi.config import Config
from ocm_wsgi.storage.files import NewFile
from ocm_wsgi.transfer.exports import Format, export_text
from ocm_wsgi.transfer.fields import Kind
from ocm_wsgi.transfer.imports import Imported, import_turns, import_users, records

_KINDS = click.Choice(["users", "turns"])
_FORMATS = click.Choice(["jsonl", "csv"])
_STANDARD_STREAM = Path("-")


@click.command("export", short_help="Write users or turns as JSON lines or CSV.")
@click.argument("what", type=_KINDS)
@click.option("--format", "format_", type=_FORMATS, help="The format; otherwise that of the file's name, or jsonl.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    default=_STANDARD_STREAM,
    help="Write this file, readable by its owner only, instead of standard output.",
)
@click.option("--since", type=PAST, metavar="WHEN", help="Only turns since then: 2027-01-31 (UTC), or 12h, 7d, 4w ago.")
@click.option("--user", type=USER_NAME, help="Only this user, or this user's turns.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def export(what: str, format_: str | None, output: Path, since: float | None, user: str | None, force: bool) -> None:
    """Write all users or all turns, one a line, as JSON or CSV.

    Users are those in the database, with the hashes of their tokens: import adds them elsewhere, and their tokens stay
    valid. Turns are kept for 30 days; usage has the sums of all times. Times are in Unix seconds, costs in millionths
    of a US dollar. Names that a spreadsheet would take for a formula get an apostrophe in front.

    \b
    Examples:
      ocm export users --output users.jsonl
      ocm export turns --since 7d --output turns.csv
      ocm export turns --user alice | jq .model
    """
    if since is not None and what == "users":
        raise click.UsageError("--since is only for turns.")
    is_file = output != _STANDARD_STREAM
    if is_file and output.exists() and not force:
        raise click.ClickException(f"{output} exists already. --force replaces it.")
    kind, database = cast(Kind, what), open_state().database
    with progress_bar(is_shown=is_file) as progress, database.read() as connection, _writer(output) as write:
        pieces = export_text(connection, kind, _format(format_, output), since=since, user=user, progress=progress)
        for piece in pieces:
            write(piece)


@click.command("import", short_help="Add users or turns that were exported.")
@click.argument("what", type=_KINDS)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True))
@click.option("--format", "format_", type=_FORMATS, help="The format; otherwise that of the file's name, or jsonl.")
@click.option("--skip-existing", is_flag=True, help="Leave out users whose name is taken, instead of failing.")
@json_option
def import_(what: str, file: Path, format_: str | None, skip_existing: bool, as_json: bool) -> None:
    """Add the users or turns in FILE (- for standard input), which export has written: all of them, or none.

    Users keep their tokens. Turns that are there already are left out, so that an import can be repeated; the others
    are added to the sums.

    \b
    Examples:
      ocm import users users.jsonl
      ocm import turns turns.csv
      ssh old ocm export users | ocm import users -
    """
    if skip_existing and what == "turns":
        raise click.UsageError("--skip-existing is only for users; turns that exist are always left out.")
    state, kind = open_state(), cast(Kind, what)
    with progress_bar() as progress, _reader(file, progress) as lines:
        found = records(kind, _format(format_, file), lines)
        if kind == "turns":
            done = import_turns(state.database, found, now=time.time())
        else:
            done = import_users(
                state.accounts,
                found,
                actor=ACTOR,
                credential_tags=_credential_tags(state.config),
                skip_existing=skip_existing,
                now=time.time(),
            )
    _report(done, kind, as_json=as_json)


def _format(chosen: str | None, path: Path) -> Format:
    if chosen is not None:
        return cast(Format, chosen)
    return "csv" if path.suffix.lower() == ".csv" else "jsonl"


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[str], object]]:
    """Open the output: standard output, or a file that gets its name when it is complete."""
    if path == _STANDARD_STREAM:
        yield _echo
        return
    temporary = path.with_name(f"{path.name}.partial")
    with NewFile(path, temporary=temporary, is_exclusive=False) as new:
        os.fchmod(new.descriptor, 0o600)
        with open(new.descriptor, "w", encoding="utf-8", newline="", closefd=False) as file:
            yield file.write
        os.fsync(new.descriptor)
        new.replace()


def _echo(text: str) -> None:
    click.echo(text, nl=False)


@contextmanager
def _reader(path: Path, progress: ProgressBar) -> Iterator[TextIO]:
    source = sys.stdin.buffer if path == _STANDARD_STREAM else _Counted(path, progress)
    # With or without the mark that spreadsheets put first.
    with io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, source)), "utf-8-sig", newline="") as lines:
        yield lines


class _Counted(io.FileIO):
    """A file that reports how many of its bytes have been read."""

    def __init__(self, path: Path, progress: ProgressBar) -> None:
        super().__init__(path)
        self._progress = progress
        progress.begin("Importing", os.fstat(self.fileno()).st_size)

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]  # any buffer
        count = super().readinto(buffer)
        self._progress.advance(count or 0)
        return count


def _credential_tags(config: Config) -> list[str]:
    return list(dict.fromkeys(each.tag for each in (*config.accounts, *config.credentials)))


def _report(done: Imported, kind: Kind, *, as_json: bool) -> None:
    if as_json:
        echo_json({"added": done.added, "skipped": done.skipped})
        return
    skipped = f", left out {done.skipped:,} that are there already" if done.skipped else ""
    noun = kind[:-1] if done.added == 1 else kind
    click.echo(f"Added {done.added:,} {noun}{skipped}.")
