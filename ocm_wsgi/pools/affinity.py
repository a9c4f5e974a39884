"""Which account of a pool serves a conversation: remembered in the state database, for all workers and restarts.

It is for upstream's cache, which is of one account. So it is given up when the account cannot be used.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable, Collection

import sqlalchemy as sa

from ocm_wsgi.errors import StateError
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database

_log = logging.getLogger(__name__)

#: How long a conversation stays with its account, from its first request on.
AFFINITY_SECONDS = DAY_SECONDS

#: Rows that are too old and are deleted with each new one.
PURGED_ROWS = 20

_TABLE = db.affinity.c


class Affinity:
    """Remembers accounts by key. Safe to create before a fork and to share between threads. Never raises.

    :param clock: returns Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def get(self, key: str) -> str | None:
        """Return the account of a conversation; ``None`` if it has none, or that cannot be read."""
        try:
            with self._database.read() as connection:
                return _current(connection, key, self._clock())
        except StateError as exc:
            _log.warning("Cannot look a conversation's account up: %s", exc.detail or exc)
            return None

    def put(self, key: str, pool: str, credential: str, *, instead_of: Collection[str] = ()) -> str:
        """Remember the account of a conversation, unless another request has given it one meanwhile.

        :param instead_of: accounts that cannot serve it any more.
        :return: the account that it has now.
        """
        now = self._clock()
        try:
            with self._database.write() as connection:
                current = _current(connection, key, now)
                if current is not None and current not in instead_of:
                    return current
                row = {"key": key, "pool": pool, "credential": credential, "created_at": now}
                connection.execute(_upsert(connection.dialect.name), row)
                connection.execute(_PURGE, {"before": now - AFFINITY_SECONDS})
        except StateError as exc:
            _log.warning("Cannot remember a conversation's account: %s", exc.detail or exc)
        return credential

    def next_count(self, pool: str) -> int:
        """Return how many picks of a pool there were before this one, in all processes."""
        key = f"picks:{pool}"
        try:
            with self._database.write() as connection:
                count = int(db.get_meta(connection, key) or 0)
                db.set_meta(connection, key, str(count + 1))
        except StateError as exc:
            _log.warning("Cannot count the picks of a pool: %s", exc.detail or exc)
            return 0
        return count

    def move_all(self, pool: str, credential: str) -> None:
        """Forget the account of all conversations of a pool that it serves."""
        try:
            with self._database.write() as connection:
                connection.execute(db.affinity.delete().where(_TABLE.pool == pool, _TABLE.credential == credential))
        except StateError as exc:
            _log.warning("Cannot move the conversations of an account: %s", exc.detail or exc)


def affinity_key(*parts: str) -> str:
    """Return the key of a conversation. What clients and users are called is not stored."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _current(connection: sa.Connection, key: str, now: float) -> str | None:
    found: str | None = connection.scalar(_GET, {"of_key": key, "since": now - AFFINITY_SECONDS})
    return found


_GET = sa.select(_TABLE.credential).where(
    _TABLE.key == sa.bindparam("of_key"), _TABLE.created_at > sa.bindparam("since", type_=sa.Double)
)
_OLD = (
    sa.select(_TABLE.key)
    .where(_TABLE.created_at <= sa.bindparam("before", type_=sa.Double))
    .order_by(_TABLE.created_at)
    .limit(PURGED_ROWS)
)
_PURGE = db.affinity.delete().where(_TABLE.key.in_(_OLD))


@functools.cache
def _upsert(dialect_name: str) -> sa.Insert:
    statement = db.insert_for(dialect_name, db.affinity)
    new = {name: statement.excluded[name] for name in ("pool", "credential", "created_at")}
    return statement.on_conflict_do_update(index_elements=["key"], set_=new)
