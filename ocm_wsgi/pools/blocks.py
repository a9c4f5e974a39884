"""Which accounts cannot be used, until when and why: known to all workers, and after a restart."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from ocm_wsgi.errors import StateError
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database

_log = logging.getLogger(__name__)

#: How long a process relies on what it has read, in seconds. It may choose an account that another process has found
#: blocked meanwhile; the request then fails over.
CACHE_SECONDS = 1.0

#: The end of the year 9999, in Unix seconds: until then an account is paused, unless it is resumed.
PAUSED_UNTIL = 253_402_300_799.0

#: The reasons of blocks that end with the window of a limit. Nobody knows when the other ones are really over.
LIMIT_REASONS = frozenset({"usage_limit", "rate_limit"})


@dataclass(frozen=True)
class Block:
    """Why an account cannot be used.

    :ivar until: Unix seconds.
    :ivar reason: a word, for programs.
    """

    until: float
    reason: str

    @property
    def is_paused(self) -> bool:
        """Whether only the owner ends it."""
        return self.until >= PAUSED_UNTIL

    def blocked_until(self, now: float) -> float:
        """Return until when the account cannot be used, in Unix seconds; infinity if that is not known."""
        return self.until if self.until <= now or self.reason in LIMIT_REASONS else math.inf


class Blocks:
    """The accounts that cannot be used. Safe to create before a fork and to share between threads.

    :param clock: returns Unix seconds.
    :param monotonic: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._known: Mapping[str, Block] = {}
        # What this process alone knows.
        self._unstored: dict[str, Block] = {}
        self._read_at: float | None = None

    def all(self) -> Mapping[str, Block]:
        """Return the blocks by account, as of about now. Some may be over. Never raises."""
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= CACHE_SECONDS:
            self._read_at = now
            try:
                self._known = self._read()
            except StateError as exc:
                _log.warning("Cannot read which accounts are blocked: %s", exc.detail or exc)
        return self._known

    def known(self) -> Mapping[str, Block]:
        """Return the blocks as of the last time that they were read. Does not query the database."""
        return self._known

    def block(self, credential: str, until: float, reason: str, *, pool: str = "") -> None:
        """Do not use an account for a while, in any worker, and add that to the audit trail. Never raises.

        :param until: Unix seconds.
        :param reason: a word, for programs.
        :param pool: in which that was found out.
        """
        self.all()
        if self.note(credential, until, reason):
            self.store(credential, pool=pool)

    def note(self, credential: str, until: float, reason: str) -> bool:
        """Do not use an account for a while, in this process. Return whether that was not known yet."""
        known = self._known.get(credential)
        if known is not None and known.until >= until:
            return False
        self._unstored[credential] = Block(until, reason)
        self._known = {**self._known, credential: Block(until, reason)}
        _log.warning("The credential %s is not used for %.0f s: %s", credential, until - self._clock(), reason)
        return True

    def store(self, credential: str, *, pool: str = "") -> None:
        """Let all workers know what :meth:`note` has noted, and add it to the audit trail. Never raises."""
        block, now = self._unstored.get(credential), self._clock()
        if block is None:
            return
        row = {"credential": credential, "blocked_until": block.until, "reason": block.reason, "at": now}
        detail = {"reason": block.reason, "until": block.until, "pool": pool}
        try:
            with self._database.write() as connection:
                connection.execute(_upsert(connection.dialect.name), row)
                db.add_event(connection, now, "system", "credential.blocked", credential, detail)
            if self._unstored.get(credential) is block:
                del self._unstored[credential]
        except StateError as exc:
            _log.warning("Cannot store that an account is blocked: %s", exc.detail or exc)

    def rest(self, credential: str, seconds: float, reason: str) -> None:
        """Do not use an account for a short while, in this process."""
        self.all()
        self._unstored[credential] = Block(self._clock() + seconds, reason)
        self._known = {**self._known, **self._unstored}

    def pause(self, credential: str, *, actor: str) -> None:
        """Do not use an account in any worker, until :meth:`resume`.

        :param actor: for the audit trail.
        :raises StateError: nothing was changed.
        """
        now = self._clock()
        row = {"credential": credential, "blocked_until": PAUSED_UNTIL, "reason": "paused", "at": now}
        with self._database.write() as connection:
            connection.execute(_upsert(connection.dialect.name), row)
            db.add_event(connection, now, actor, "credential.paused", credential)

    def resume(self, credential: str, *, actor: str) -> bool:
        """Use an account again, whatever it is blocked for. Return whether it was blocked.

        :raises StateError: nothing was changed.
        """
        now = self._clock()
        with self._database.write() as connection:
            table = db.credential_block
            is_blocked = connection.scalar(
                sa.select(table.c.blocked_until > now).where(table.c.credential == credential)
            )
            connection.execute(table.delete().where(table.c.credential == credential))
            db.add_event(connection, now, actor, "credential.resumed", credential)
        return bool(is_blocked)

    def _read(self) -> Mapping[str, Block]:
        with self._database.read() as connection:
            rows = connection.execute(_ALL).all()
        stored = {row.credential: Block(row.blocked_until, row.reason) for row in rows}
        now = self._clock()
        later = {
            tag: block
            for tag, block in list(self._unstored.items())
            if block.until > now and (tag not in stored or stored[tag].until < block.until)
        }
        return {**stored, **later}


_ALL = sa.select(db.credential_block)


@functools.cache
def _upsert(dialect_name: str) -> sa.Insert:
    statement = db.insert_for(dialect_name, db.credential_block)
    new = {name: statement.excluded[name] for name in ("blocked_until", "reason", "at")}
    return statement.on_conflict_do_update(
        index_elements=["credential"],
        set_=new,
        where=db.credential_block.c.blocked_until < statement.excluded.blocked_until,
    )
