"""The owners of stored objects: written when upstream's answer names an object, read when a request does.

An object without a row was created before there were rows, or not through this service. Only admins may use it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import sqlalchemy as sa

from ocm_wsgi.accounting.recorder import Durability, OnRecorded, Recorder
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.protocol.objects.stored_object import NamedObject
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.per_process import PerProcess

_log = logging.getLogger(__name__)

Record = dict[str, Any]

#: OpenAI keeps responses and their items for 30 days. Their rows are kept for twice as long, all others until the
#: object is deleted.
RETENTION_DAYS = 60
EXPIRING_KINDS = ("response", "item")

#: Rows that retention deletes per transaction, and how often a process looks for them, in seconds.
RETENTION_CHUNK = 500
RETENTION_SECONDS = 3600.0

#: Objects that one answer can name. More of them remain without a row.
MAX_OBJECTS = 256

#: How long a claim may take before it goes to the spool, in seconds.
CLAIM_SECONDS = 1.0

# SQLite accepts 999 values per query, or more if it is built so.
_IDS_PER_QUERY = 500

_CLAIM_FIELDS = ("user", "credential", "created_at", "turn")


@dataclass(frozen=True)
class Owner:
    """The owner of an object.

    :ivar turn: the ID of the turn that created it, or ``None``.
    :ivar credential: the tag of the account that stores it.
    """

    user: str
    turn: str | None
    credential: str = DEFAULT_CREDENTIAL


class Owners:
    """Who owns which stored object.

    Safe to create before a fork and to share between threads. Its own threads start at the first claim, so that a
    service which stores nothing has none.

    :param clock: returns Unix seconds.
    """

    def __init__(self, database: Database, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._spool = spool
        self._clock = clock
        self._recorders = PerProcess(
            lambda: Recorder(self._store, spool, chore=self.delete_old, chore_seconds=RETENTION_SECONDS),
            on_inherited=Recorder.abandon,
        )

    def ids_of(self, user: str, kind: str) -> frozenset[str]:
        """Return the IDs of all objects of a kind that a user owns.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            return frozenset(connection.scalars(_IDS, {"owner": user, "of_kind": kind}))

    def not_owned(self, user: str, ids: Collection[str]) -> set[str]:
        """Return those of the objects that a user does not own.

        :raises StateError: the database cannot be read.
        """
        wanted = set(ids)
        if not wanted:
            return wanted
        remaining = sorted(wanted)
        owned: set[str] = set()
        with self._database.read() as connection:
            while remaining:
                some, remaining = remaining[:_IDS_PER_QUERY], remaining[_IDS_PER_QUERY:]
                owned.update(connection.scalars(_OWNED, {"owner": user, "ids": some}))
        return wanted - owned

    def credentials_of(self, ids: Collection[str]) -> set[str]:
        """Return the tags of the accounts that store these objects, as far as that is known.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            return set(connection.scalars(_CREDENTIALS, {"ids": sorted(ids)[:_IDS_PER_QUERY]}))

    def owner_of(self, object_id: str) -> Owner | None:
        """Return the owner of an object, or ``None`` if it has none.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            row = connection.execute(_OWNER, {"object_id": object_id}).first()
        return None if row is None else Owner(row.user, row.turn, row.credential)

    def claim_async(
        self,
        user: str,
        objects: Collection[NamedObject],
        on_recorded: OnRecorded,
        *,
        credential: str = DEFAULT_CREDENTIAL,
        turn: str | None = None,
    ) -> None:
        """Record a user as the owner of objects that nobody owns, and call ``on_recorded`` once. Never raises.

        Objects that have an owner keep it, so that no answer can transfer one.

        :param on_recorded: called from another thread, once the claim is durable or could not be made so.
        :param credential: the tag of the account that stores them.
        :param turn: the turn that created them, if any.
        """
        record = {
            "objects": [[each.id, each.kind] for each in list(objects)[:MAX_OBJECTS]],
            "user": user,
            "credential": credential,
            "created_at": self._clock(),
            "turn": turn,
        }
        try:
            while not self._recorders.get().submit(record, on_recorded, CLAIM_SECONDS):
                # It was closed in the meantime. It is forgotten before it is closed, so the next one is another.
                continue
        except Exception:
            _log.exception("Cannot record the owner of stored objects")
            on_recorded("memory")

    def claim(
        self,
        user: str,
        objects: Collection[NamedObject],
        *,
        credential: str = DEFAULT_CREDENTIAL,
        turn: str | None = None,
    ) -> Durability:
        """Record a user as the owner of objects, as :meth:`claim_async` does, and wait until that is durable."""
        results: SimpleQueue[Durability] = SimpleQueue()
        self.claim_async(user, objects, results.put, credential=credential, turn=turn)
        try:
            return results.get(timeout=CLAIM_SECONDS + 0.5)
        except Empty:
            return "memory"

    def start(self) -> None:
        """Write claims that dead processes have left in the spool to the database now, instead of at the next claim."""
        if any(self._spool.path.glob("*")):
            self._recorders.get().expect_chore(0.0)

    def forget(self, object_id: str) -> None:
        """Remove the row of an object that upstream has deleted.

        :raises StateError: the row remains, which is harmless.
        """
        with self._database.write() as connection:
            connection.execute(db.stored_object.delete().where(db.stored_object.c.id == object_id))

    def delete_old(self) -> bool:
        """Delete some of the rows that are too old. Return whether there may be more."""
        table = db.stored_object.c
        old = (
            sa.select(table.id)
            .where(table.kind.in_(EXPIRING_KINDS), table.created_at < self._clock() - RETENTION_DAYS * DAY_SECONDS)
            .limit(RETENTION_CHUNK)
        )
        with self._database.write() as connection:
            return connection.execute(db.stored_object.delete().where(table.id.in_(old))).rowcount == RETENTION_CHUNK

    def close(self) -> None:
        """Write all pending claims and end the threads. A later claim starts new ones."""
        recorder = self._recorders.pop()
        if recorder is not None:
            recorder.close()

    def _store(self, records: Sequence[Record]) -> None:
        store_claims(self._database, records)


def store_claims(database: Database, records: Sequence[Record]) -> None:
    """Write the rows of claims that are not in the database yet.

    :raises StateError: nothing was written.
    """
    with database.write_directly() as cursor:
        insert = _insert(cursor.dialect.name)
        for row in itertools.chain.from_iterable(map(_rows, records)):
            cursor.run(insert, row)


def _rows(record: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the rows of a claim, which an earlier process may have left in the spool."""
    for object_id, kind in record.get("objects", ()):
        yield {"id": object_id, "kind": kind, **{name: record.get(name) for name in _CLAIM_FIELDS}}


_OWNED = sa.select(db.stored_object.c.id).where(
    db.stored_object.c.user == sa.bindparam("owner"), db.stored_object.c.id.in_(sa.bindparam("ids", expanding=True))
)
_CREDENTIALS = sa.select(db.stored_object.c.credential).where(
    db.stored_object.c.id.in_(sa.bindparam("ids", expanding=True))
)
_IDS = sa.select(db.stored_object.c.id).where(
    db.stored_object.c.user == sa.bindparam("owner"), db.stored_object.c.kind == sa.bindparam("of_kind")
)
_OWNER = sa.select(db.stored_object.c.user, db.stored_object.c.turn, db.stored_object.c.credential).where(
    db.stored_object.c.id == sa.bindparam("object_id")
)


@functools.cache
def _insert(dialect_name: str) -> sa.Insert:
    return db.insert_for(dialect_name, db.stored_object).on_conflict_do_nothing(index_elements=["id"])
