"""The state: its folder, the room on its disk, the database, and what waits to be written there."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.errors import StateError
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.schema import get_meta

_SUBJECT = Subject("state")
# A record takes some hundred bytes; the database makes copies of its pages while it writes.
_LITTLE_BYTES = 200 * 1024 * 1024
_TOO_LITTLE_BYTES = 10 * 1024 * 1024
# A running service writes its journals down within seconds.
_WAITING_SECONDS = 300


def findings(config: Config) -> Iterator[Finding]:
    """Look at the folder and the database. Makes neither."""
    folder = config.state_path
    if folder.is_dir():
        yield from _folder(folder)
    elif _nearest(folder).is_dir() and os.access(_nearest(folder), os.W_OK | os.X_OK):
        yield _SUBJECT.note("missing", f"{folder} is not there yet; the service makes it.")
    else:
        yield _SUBJECT.problem("unmakeable", f"{folder} cannot be made.", f"mkdir -p -m 700 {folder}, as its user")
        return
    yield from _room(_nearest(folder))
    yield from _database(config.database_url)
    yield from _backlog(folder / "spool")


def _folder(folder: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield _SUBJECT.problem("unwritable", f"{folder} cannot be written.", "chown it to the user of the service")
    elif mode & 0o077:
        yield _SUBJECT.warning(
            "open", f"Others on this machine may look into {folder} (mode {mode:04o}).", f"chmod 700 {folder}"
        )
    else:
        yield _SUBJECT.ok("folder", f"{folder} can be written, and is closed to others.")


def _room(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    if free < _TOO_LITTLE_BYTES:
        yield _SUBJECT.problem(
            "full",
            f"The disk of {folder} is full: what is used cannot be recorded, and tokens cannot be renewed.",
            "Make room.",
        )
    elif free < _LITTLE_BYTES:
        yield _SUBJECT.warning("room", f"{free // 2**20} MiB are free on the disk of {folder}.", "Make room.")
    else:
        yield _SUBJECT.ok("room", f"{free / 2**30:.1f} GiB are free on its disk.")


def _database(url: str) -> Iterator[Finding]:
    opened = Database(url)
    if opened.path is not None and not opened.path.exists():
        yield _SUBJECT.note("no_database", f"{opened.path} is not there yet; the service makes it.")
        return
    name = opened.url.render_as_string(hide_password=True)
    try:
        with opened.read() as connection:
            version = get_meta(connection, "schema_version")
    except StateError as exc:
        text = f"{exc.message} It is {name}{f': {exc.detail}' if exc.detail else ''}."
        yield _SUBJECT.problem("database", text, "See the service's log; the relay goes on meanwhile.")
    else:
        yield _SUBJECT.ok("database", f"The database {name} opens (schema {version}).")
    finally:
        opened.close()


def _backlog(spool: Path) -> Iterator[Finding]:
    count, oldest = 0, time.time()
    for journal in spool.glob("*.journal"):
        try:
            waiting = journal.read_bytes().count(b"\n{")
            modified = journal.stat().st_mtime
        except OSError:
            continue
        if waiting:
            count, oldest = count + waiting, min(oldest, modified)
    if time.time() - oldest > _WAITING_SECONDS:
        yield _SUBJECT.warning(
            "backlog",
            f"{count} records have been waiting for the database for {(time.time() - oldest) / 60:.0f} minutes.",
            "Start the service, which writes them down; if it runs, its log says what keeps it from that.",
        )
    else:
        yield _SUBJECT.ok("backlog", f"{count} records wait for the database.")


def _nearest(folder: Path) -> Path:
    """Return the folder, or what there is of the way to it."""
    return next(path for path in (folder, *folder.parents) if path.exists())
