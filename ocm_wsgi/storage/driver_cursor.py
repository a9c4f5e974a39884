"""Executes statements through the database driver directly, for the writes of each turn.

Executing through SQLAlchemy takes several times as long as SQLite itself. Here SQLAlchemy only compiles each statement,
once. Independent of the tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

Values = Mapping[str, Any]


@dataclass(frozen=True)
class DriverCursor:
    """A cursor of the driver, in a transaction that the caller begins and ends.

    :ivar cursor: the driver's own cursor.
    """

    cursor: Any
    dialect: sa.Dialect

    def run(self, statement: sa.Insert | sa.Update, values: Values) -> int:
        """Execute a statement that returns no rows, and return the number of rows written.

        :param statement: always the same object, because its compiled form is cached.
        :param values: in types that the driver accepts; values that the statement does not name are ignored.
        """
        compiled = _compile(statement, self.dialect)
        self.cursor.execute(compiled.text, compiled.arguments(values))
        count: int = self.cursor.rowcount
        return count

    def scalar(self, statement: sa.Select[Any], values: Values) -> Any:
        """Execute a query, and return the first column of its first row; ``None`` if there is none.

        :param statement: as for :meth:`run`.
        :param values: as for :meth:`run`.
        """
        compiled = _compile(statement, self.dialect)
        self.cursor.execute(compiled.text, compiled.arguments(values))
        row = self.cursor.fetchone()
        return None if row is None else row[0]


@dataclass(frozen=True)
class _Compiled:
    text: str
    arguments: Callable[[Values], Any]


@functools.cache
def _compile(statement: sa.Insert | sa.Update | sa.Select[Any], dialect: sa.Dialect) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    if compiled.positiontup is not None:
        return _Compiled(compiled.string, itemgetter(*compiled.positiontup))
    return _Compiled(compiled.string, dict)
