"""The rows of the state's tables in a form that SQLite and PostgreSQL share, and checksums of them.

Knows no meaning of the rows, and no version of the schema: the tables are those that a database has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json

from ocm_wsgi.storage.schema import metadata

#: The values of a table's columns, in the order of their names.
Row = tuple[Any, ...]

#: Rows that are read and written at a time.
CHUNK_ROWS = 1000

_DIGEST_BYTES = 16
# As JSON.
_NUL = rb"\u0000"


@dataclass(frozen=True)
class Checksum:
    """What a table contains, regardless of the order of its rows.

    :ivar rows: their number.
    :ivar digest: the sum of the digests of all rows, in hexadecimal.
    """

    rows: int
    digest: str


class Summing:
    """Computes the checksum of a table from chunks of its rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for row in rows:
            # Without the NULs that PostgreSQL does not accept: see write_chunk.
            text = to_json(row).replace(_NUL, b"")
            self._sum += int.from_bytes(hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest(), "big")
            self._rows += 1

    def result(self) -> Checksum:
        """Return the checksum of the rows so far."""
        return Checksum(self._rows, f"{self._sum % (1 << 8 * _DIGEST_BYTES):0{2 * _DIGEST_BYTES}x}")


def tables_of(connection: sa.Connection) -> list[sa.Table]:
    """Return the state's tables that a database has, of whichever release, with their columns sorted by name."""
    inspector = sa.inspect(connection)
    names = sorted(metadata.tables.keys() & set(inspector.get_table_names()))
    return [_portable(name, inspector.get_columns(name)) for name in names]


def count_rows(connection: sa.Connection, tables: Iterable[sa.Table]) -> dict[str, int]:
    """Return the number of rows of each table."""
    return {
        table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables
    }


def read_chunks(connection: sa.Connection, table: sa.Table) -> Iterator[list[Row]]:
    """Yield the rows of a table, in chunks. On PostgreSQL they are streamed."""
    query = sa.select(table).execution_options(yield_per=CHUNK_ROWS)
    for partition in connection.execute(query).partitions():
        yield [tuple(row) for row in partition]


def write_chunk(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows. PostgreSQL does not accept NUL in texts, so they arrive there without it."""
    names = table.columns.keys()
    if connection.dialect.name == "postgresql":
        rows = [tuple(map(_without_nul, row)) for row in rows]
    connection.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])


def checksum_of(chunks: Iterable[list[Row]]) -> Checksum:
    """Return the checksum of all rows."""
    summing = Summing()
    for chunk in chunks:
        summing.add(chunk)
    return summing.result()


def renumber(connection: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Let PostgreSQL number further rows after those that were inserted with their numbers. SQLite does so itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        column = metadata.tables[table.name].autoincrement_column
        if column is None:
            continue
        name = connection.dialect.identifier_preparer.format_table(table)
        sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(name, column.name)))
        highest = connection.scalar(sa.select(sa.func.max(table.columns[column.name])))
        if sequence is not None:
            connection.execute(sa.select(sa.func.setval(sequence, highest or 1, highest is not None)))


def _portable(name: str, columns: Sequence[Mapping[str, Any]]) -> sa.Table:
    known = {column["name"]: _portable_type(column["type"]) for column in columns}
    return sa.Table(name, sa.MetaData(), *(sa.Column(each, known[each]) for each in sorted(known)))


def _portable_type(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    if isinstance(kind, sa.JSON):
        # A null of SQL, as everywhere in the state, not one of JSON.
        return sa.JSON(none_as_null=True)
    return sa.Boolean() if isinstance(kind, sa.Boolean) else sa.types.NullType()


def _without_nul(value: Any) -> Any:
    return value.replace("\0", "") if type(value) is str and "\0" in value else value
