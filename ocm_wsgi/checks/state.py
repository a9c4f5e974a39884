"""The state: its folder, the free disk space, the database, and records not yet written to it."""

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
from ocm_wsgi.storage.schema import SCHEMA_VERSION

_SUBJECT = Subject("state")
# A record takes a few hundred bytes; the database copies pages while it writes.
_LOW_SPACE_BYTES = 200 * 1024 * 1024
_NO_SPACE_BYTES = 10 * 1024 * 1024
# A running service writes its journals to the database within seconds.
_BACKLOG_SECONDS = 300


def findings(config: Config) -> Iterator[Finding]:
    """Check the folder and the database, without creating them."""
    folder = config.state_path
    if folder.is_dir():
        yield from _folder(folder)
    elif _nearest(folder).is_dir() and os.access(_nearest(folder), os.W_OK | os.X_OK):
        yield _SUBJECT.note("missing", f"{folder} does not exist yet; the service creates it.")
    else:
        yield _SUBJECT.problem(
            "unmakeable", f"{folder} cannot be created.", f"mkdir -p -m 700 {folder}, as the service's user"
        )
        return
    yield from _room(_nearest(folder))
    yield from _database(config.database_url)
    yield from _backlog(folder / "spool")


def _folder(folder: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield _SUBJECT.problem("unwritable", f"{folder} is not writable.", "chown it to the service's user")
    elif mode & 0o077:
        yield _SUBJECT.warning(
            "open", f"Other users of this machine can access {folder} (mode {mode:04o}).", f"chmod 700 {folder}"
        )
    else:
        yield _SUBJECT.ok("folder", f"{folder} is writable, and private.")


def _room(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    if free < _NO_SPACE_BYTES:
        yield _SUBJECT.problem(
            "full",
            f"The disk of {folder} is full: usage cannot be recorded, and tokens cannot be refreshed.",
            "Free some space.",
        )
    elif free < _LOW_SPACE_BYTES:
        yield _SUBJECT.warning(
            "room", f"Only {free // 2**20} MiB are free on the disk of {folder}.", "Free some space."
        )
    else:
        yield _SUBJECT.ok("room", f"{free / 2**30:.1f} GiB are free on its disk.")


def _database(url: str) -> Iterator[Finding]:
    opened = Database(url, upgrades=False)
    if opened.path is not None and not opened.path.exists():
        yield _SUBJECT.note("no_database", f"{opened.path} does not exist yet; the service creates it.")
        return
    name = opened.url.render_as_string(hide_password=True)
    try:
        with opened.snapshot() as (_, version):
            pass
        if version is None:
            yield _SUBJECT.note("no_tables", f"The database {name} has no tables yet; the service creates them.")
        elif version < SCHEMA_VERSION:
            yield _upgrade(name, version)
        else:
            yield _SUBJECT.ok("database", f"The database {name} can be opened (schema {version}).")
    except StateError as exc:
        text = f"{exc.message} ({name}{f': {exc.detail}' if exc.detail else ''})"
        yield _SUBJECT.problem("database", text, "See the service's log; requests are relayed meanwhile.")
    finally:
        opened.close()


def _upgrade(name: str, version: int) -> Finding:
    # Imports Alembic, and so only if there is something to report.
    from ocm_wsgi.storage import upgrades

    steps = " ".join(f"Schema {step.version}: {step.text}." for step in upgrades.steps_after(version))
    return _SUBJECT.note(
        "upgrade",
        f"The database {name} has schema {version}. This release upgrades it to schema {SCHEMA_VERSION} when it first "
        f"opens it, while workers of the earlier release go on. {steps} Earlier releases cannot open it afterwards.",
        "ocm backup FILE, then restart the service",
    )


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
    if time.time() - oldest > _BACKLOG_SECONDS:
        yield _SUBJECT.warning(
            "backlog",
            f"Records have been waiting for the database for {(time.time() - oldest) / 60:.0f} minutes: {count}.",
            "Start the service, which writes them; if it is running, its log says why it cannot.",
        )
    else:
        yield _SUBJECT.ok("backlog", f"Records waiting for the database: {count}.")


def _nearest(folder: Path) -> Path:
    """Return the folder, or its closest existing parent."""
    return next(path for path in (folder, *folder.parents) if path.exists())
