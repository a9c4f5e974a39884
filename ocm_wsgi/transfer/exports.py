"""Exports users and turns, as JSON lines or CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

import sqlalchemy as sa

from ocm_wsgi.reporting.spreadsheet import csv_text
from ocm_wsgi.storage import schema as db
from ocm_wsgi.transfer.fields import FIELDS, Kind, Record
from ocm_wsgi.transfer.rows import CHUNK_ROWS
from ocm_wsgi.transfer.steps import Progress, advancing

Format = Literal["jsonl", "csv"]


def export_text(
    connection: sa.Connection,
    kind: Kind,
    format_: Format,
    *,
    since: float | None = None,
    user: str | None = None,
    progress: Progress,
) -> Iterator[str]:
    """Yield the text of an export in pieces: users by name, or turns by time.

    :param since: only turns that started since then, in Unix seconds.
    :param user: only this user, or this user's turns.
    """
    query = _query(kind, since, user)
    progress.begin(
        f"Exporting {kind}", connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    )
    records = _records(connection, query, progress)
    if format_ == "csv":
        fields = FIELDS[kind]
        rows = ([field.cell(record[field.name]) for field in fields] for record in records)
        yield from csv_text([field.name for field in fields], rows, line_end="\n")
    else:
        for record in records:
            yield json.dumps(record, ensure_ascii=False) + "\n"


def _query(kind: Kind, since: float | None, user: str | None) -> sa.Select[tuple[object, ...]]:
    table = db.user if kind == "users" else db.turn
    query = sa.select(*(table.columns[field.name] for field in FIELDS[kind]))
    if user is not None:
        query = query.where(table.columns["name" if kind == "users" else "user"] == user)
    if since is not None:
        query = query.where(db.turn.c.started_at >= since)
    return query.order_by(*([db.user.c.name] if kind == "users" else [db.turn.c.started_at, db.turn.c.id]))


def _records(connection: sa.Connection, query: sa.Select[tuple[object, ...]], progress: Progress) -> Iterable[Record]:
    found = connection.execute(query.execution_options(yield_per=CHUNK_ROWS)).mappings()
    for chunk in advancing(progress, ([dict(row) for row in partition] for partition in found.partitions())):
        for record in chunk:
            yield {str(name): value for name, value in record.items()}
