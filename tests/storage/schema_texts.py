"""The tables of each version of the schema, as SQL in the files of ``schemas``.

``python -m tests.storage.schema_texts`` writes those of the current version, which must be new.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from ocm_wsgi.storage.schema import SCHEMA_VERSION, metadata

FOLDER = Path(__file__).with_name("schemas")
DIALECTS = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}
#: The versions that a database may have had, oldest first. The last one is the current one.
VERSIONS = sorted(int(path.name.partition(".")[0]) for path in FOLDER.glob("*.sqlite.sql"))


def path_of(version: int, dialect_name: str) -> Path:
    """Return the path of the file with a version's tables."""
    return FOLDER / f"{version}.{dialect_name}.sql"


def current_text(dialect_name: str) -> str:
    """Return the statements that create the tables of this release."""
    statements: list[CreateTable | CreateIndex] = []
    for table in sorted(metadata.tables.values(), key=lambda table: table.name):
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [CreateTable(table), *map(CreateIndex, indexes)]
    compiled = (str(each.compile(dialect=DIALECTS[dialect_name]())).strip() for each in statements)
    return "".join("\n".join(line.rstrip() for line in text.splitlines()) + ";\n" for text in compiled)


def create(engine: sa.Engine, version: int) -> None:
    """Create a database as the release of a schema version did."""
    with engine.connect() as connection, connection.begin():
        for statement in path_of(version, engine.dialect.name).read_text().split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql(f"INSERT INTO meta VALUES ('schema_version', '{version}')")


if __name__ == "__main__":
    for name in DIALECTS:
        path_of(SCHEMA_VERSION, name).write_text(current_text(name))
