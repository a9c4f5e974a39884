"""The revisions of the schema, one a file, which Alembic loads. They never change once they are released.

Each revision only adds: tables, indexes, and columns that may be null or have a server default. Workers of the earlier
release continue to read and write during an upgrade, and know nothing of what was added. What an earlier release uses
is removed or renamed one release after the last use of it.

A revision lists what it adds literally: the tables of ``schema`` are those of the newest version.
"""

from __future__ import annotations

__all__: list[str] = []
