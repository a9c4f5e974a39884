"""Imports users and turns that were exported: all of a file, or nothing of it."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import sqlalchemy as sa

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.ledger import RETENTION_DAYS
from ocm_wsgi.accounting.turn_record import bounded
from ocm_wsgi.accounting.weeks import Weeks
from ocm_wsgi.errors import TransferFailed, UserRejected
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.reporting.spreadsheet import plain_text
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.driver_cursor import DriverCursor
from ocm_wsgi.transfer.exports import Format
from ocm_wsgi.transfer.fields import FIELDS, Kind, Record, checked
from ocm_wsgi.transfer.rows import CHUNK_ROWS
from ocm_wsgi.users.accounts import Account, Accounts
from ocm_wsgi.users.user import user_of

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    :ivar added: the number of records that are new.
    :ivar skipped: the number of those that were there already, or may have been counted already.
    """

    added: int
    skipped: int


def records(kind: Kind, format_: Format, lines: TextIO) -> Iterator[Record]:
    """Yield the records of an export.

    :param lines: opened with ``newline=""``.
    :raises TransferFailed: a record is invalid; names its line.
    """
    rows = _csv_rows(kind, lines) if format_ == "csv" else _json_lines(lines)
    try:
        for number, members in rows:
            yield _checked(kind, number, members)
    except UnicodeDecodeError as exc:
        raise TransferFailed("The file is not UTF-8. Nothing was imported.") from exc


def import_users(
    accounts: Accounts,
    found: Iterable[Record],
    *,
    actor: str,
    credential_tags: Collection[str],
    skip_existing: bool,
    now: float,
) -> Imported:
    """Add users with the tokens that they have: all, or none.

    :param credential_tags: those that the configuration has.
    :param skip_existing: leave out users whose name is taken.
    :raises TransferFailed: a record is invalid. Nobody was added.
    :raises UserRejected: the users of a name or a token exist. Nobody was added.
    """
    return Imported(
        *accounts.add_all(
            (_account(record, credential_tags, now) for record in found), actor=actor, skip_existing=skip_existing
        )
    )


def import_turns(database: Database, found: Iterable[Record], *, now: float) -> Imported:
    """Add turns that are not there yet, and add those to the sums: all, or none.

    Turns are kept for a limited time, sums for good. A turn that is older than that is left out if its user has sums of
    that hour already, as these may contain it.

    :raises TransferFailed: a record is invalid. Nothing was added.
    :raises StateError: nothing was added.
    """
    added = total = 0
    weeks = Weeks()
    with database.write() as connection:
        counted = _counted_hours(connection, now - RETENTION_DAYS * DAY_SECONDS)
        cursor = DriverCursor(connection.connection.cursor(), connection.dialect)
        before = _count(connection)
        iterator = iter(found)
        while chunk := list(itertools.islice(iterator, CHUNK_ROWS)):
            total += len(chunk)
            turns = [_bounded(each) for each in chunk if (each["user"], _hour_of(each)) not in counted]
            queries.store_records(cursor, weeks.aligned(cursor, turns))
        added = _count(connection) - before
    return Imported(added, total - added)


def _bounded(record: Record) -> Record:
    """Return a turn with its texts and numbers within the bounds of a record."""
    started_at = float(record["started_at"])
    return {**{name: bounded(value) for name, value in record.items()}, "started_at": started_at}


def _hour_of(record: Record) -> int:
    return queries.hour_down(record["started_at"])


def _csv_rows(kind: Kind, lines: TextIO) -> Iterator[tuple[int, Record]]:
    fields = {field.name: field for field in FIELDS[kind]}
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise _invalid(reader.line_num, f"it has {len(row)} cells, but the header {len(header)}")
                cells = zip(header, map(plain_text, row), strict=True)
                # Names that are unknown are reported when the record is checked.
                yield (
                    reader.line_num,
                    {name: fields[name].from_cell(cell) if name in fields else cell for name, cell in cells},
                )
    except csv.Error as exc:
        raise _invalid(reader.line_num, str(exc)) from exc


def _json_lines(lines: TextIO) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            members: Any = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            raise _invalid(number, "it is not a JSON object")
        yield number, members


def _checked(kind: Kind, number: int, members: Record) -> Record:
    try:
        return checked(kind, members)
    except ValueError as exc:
        raise _invalid(number, str(exc)) from None


def _account(record: Record, credential_tags: Collection[str], now: float) -> tuple[Account, str]:
    given = {key: value for key, value in record.items() if value is not None}
    row = {**dict.fromkeys(field.name for field in FIELDS["users"]), "admin": False, "disabled": False, **given}
    name = record["name"]
    if not _DIGEST.fullmatch(record["token_sha256"]):
        raise TransferFailed(f"token_sha256 of {name} is not a SHA-256 in hexadecimal. Nobody was added.")
    if row["credential"] is not None and row["credential"] not in credential_tags:
        tags = ", ".join(credential_tags)
        raise UserRejected(
            f"The user {name} has the credential {row['credential']}, which is not in the configuration; it has {tags}."
            " Nobody was added."
        )
    try:
        user = user_of(row)
    except ValueError as exc:
        raise TransferFailed(f"The user {name} has a limit that this release does not know: {exc}.") from exc
    created_at = row["created_at"] or now
    return Account(user, created_at, row["updated_at"] or created_at), record["token_sha256"]


def _counted_hours(connection: sa.Connection, before: float) -> set[tuple[str, int]]:
    """Return the users and hours whose turns are not kept any more, and that have sums."""
    table = db.turn_hour.c
    query = sa.select(table.user, table.hour).where(table.hour < math.ceil(before)).distinct()
    return {(user, hour) for user, hour in connection.execute(query)}


def _count(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(db.turn)).scalar_one())


def _no_constant(name: str) -> Callable[[], None]:
    raise ValueError(f"{name} is not JSON")


def _invalid(line: int, problem: str) -> TransferFailed:
    return TransferFailed(f"Line {line}: {problem}. Nothing was imported.")
