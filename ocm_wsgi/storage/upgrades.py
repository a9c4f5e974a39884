"""Upgrades the schema of an earlier release with Alembic, revision by revision.

The revisions are in ``revisions``, one for each version of the schema. The version itself stays in ``meta``, where
0.1.0 looks for it, in place of Alembic's own table.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from ocm_wsgi.storage.schema import SCHEMA_VERSION

_FOLDER = str(Path(__file__).with_name("revisions"))

# The revisions use ``alembic.op``, which is the same for all threads of a process.
_OPERATIONS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Step:
    """What one revision does.

    :ivar version: the version of the schema after it.
    :ivar text: what it adds, for the operator, without a full stop.
    """

    version: int
    text: str


def apply(connection: sa.Connection, after: int, *, until: int = SCHEMA_VERSION) -> None:
    """Upgrade the schema from one version to another, in the caller's transaction. The caller stores the new version.

    :param after: 0 for an empty database.
    """
    with _OPERATIONS_LOCK, Operations.context(MigrationContext.configure(connection)):
        for script in _scripts_after(after):
            if int(script.revision) <= until:
                script.module.upgrade()


def steps_after(version: int) -> list[Step]:
    """Return what an upgrade from a version would do, in order."""
    return [Step(int(script.revision), script.doc.rstrip(".")) for script in _scripts_after(version)]


def _scripts_after(version: int) -> Iterator[Script]:
    scripts = ScriptDirectory(_FOLDER, version_locations=[_FOLDER]).walk_revisions()
    return reversed([script for script in scripts if int(script.revision) > version])
