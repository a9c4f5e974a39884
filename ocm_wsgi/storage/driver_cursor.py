"""Statements run by a database's driver itself, for what is written at each turn.

SQLAlchemy's own way costs several times what SQLite does. Here it makes each statement, once, and the rest goes past
it. Knows nothing of the tables.
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
    """A way past SQLAlchemy to a transaction that somebody else begins and ends.

    :ivar cursor: of the driver.
    """

    cursor: Any
    dialect: sa.Dialect

    def run(self, statement: sa.Insert, values: Values) -> int:
        """Run a statement that returns no rows, and say how many it has written.

        :param statement: one object throughout, as it is kept in the driver's form.
        :param values: each as the driver takes it; those that the statement does not name are passed over.
        """
        prepared = _prepared(statement, self.dialect)
        self.cursor.execute(prepared.text, prepared.arguments(values))
        count: int = self.cursor.rowcount
        return count


@dataclass(frozen=True)
class _Prepared:
    text: str
    arguments: Callable[[Values], Any]


@functools.cache
def _prepared(statement: sa.Insert, dialect: sa.Dialect) -> _Prepared:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    if compiled.positiontup is not None:
        return _Prepared(compiled.string, itemgetter(*compiled.positiontup))
    return _Prepared(compiled.string, dict)
