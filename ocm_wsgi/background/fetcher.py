"""Fetches responses and jobs in the background until their turns are settled.

A client need not fetch a response to use it: it may continue it, read it in its conversation, or leave before the end
that names the usage. So the service itself asks upstream, once a minute at first and less often later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import sqlalchemy as sa

from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.credentials import Mode
from ocm_wsgi.errors import OcmError
from ocm_wsgi.ownership.access import FAMILIES, Access
from ocm_wsgi.ownership.open_answer import is_final
from ocm_wsgi.pools.account import UpstreamAccounts
from ocm_wsgi.protocol.endpoints.endpoint import Family, ObjectKind
from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.http.targets import API_PREFIX, api_target
from ocm_wsgi.protocol.responses.observer import observer_for
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.database import Database
from ocm_wsgi.storage.per_process import PerProcess
from ocm_wsgi.upstream.client import ClientRequest, UpstreamResponse

_log = logging.getLogger(__name__)

#: Between two passes, and the youngest age at which a response is fetched, in seconds.
PASS_SECONDS = 60.0

#: The longest time between two attempts, in seconds. Until then, a quarter of the response's age.
LONGEST_SECONDS = 3600.0

#: What has not ended by then is given up: its turn keeps the estimate. A batch may take a day.
GIVE_UP_SECONDS = 2 * DAY_SECONDS

#: Responses and jobs fetched per pass.
MOST_PER_PASS = 50

# Where each kind is fetched.
_PATHS: Mapping[ObjectKind, str] = {
    "response": "responses",
    "batch": "batches",
    "fine_tuning_job": "fine_tuning/jobs",
}


@dataclass(frozen=True)
class _Pending:
    object_id: str
    kind: ObjectKind
    credential: str
    turn_id: str
    started_at: float


class BackgroundFetcher:
    """Settles the turns of responses and jobs in the background. Safe to create before a fork.

    :param lock_path: of a lock that one process holds during a pass.
    :param clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        accounts: UpstreamAccounts,
        settlements: Settlements,
        lock_path: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._settlements = settlements
        self._lock_path = lock_path
        self._clock = clock
        self._next_at: dict[str, float] = {}
        self._threads = PerProcess(lambda: _Repeating(self._pass))

    def start(self) -> None:
        """Start a thread that fetches what is due, once a minute."""
        self._threads.get().start()

    def close(self) -> None:
        """End the thread. What it is fetching is abandoned, and fetched again by another process."""
        thread = self._threads.pop()
        if thread is not None:
            thread.stop()

    def fetch_due(self) -> None:
        """Fetch what is due, unless another process is doing so.

        :raises StateError: the database cannot be read.
        """
        if not any(account.credentials.is_api_key() for account in self._accounts.all()):
            return
        lock = filelock.FileLock(self._lock_path, mode=0o600, fallback_to_soft=False)
        try:
            with lock.acquire(blocking=False):
                for pending in self._due():
                    self._fetch(pending.kind, pending.object_id, pending.turn_id, pending.credential)
        except filelock.Timeout:
            return

    def fetch_before_deletion(self, access: Access) -> None:
        """Fetch a response that is about to be deleted, unless its turn is settled: nobody can fetch it afterwards.

        :raises StateError: whether it is settled cannot be decided.
        """
        owner, endpoint = access.owner, access.endpoint
        if not (endpoint.deletes and endpoint.object_kind == "response"):
            return
        if access.object_id is None or owner is None or owner.turn is None:
            return
        with self._database.read() as connection:
            is_open = connection.scalar(_IS_OPEN, {"turn_id": owner.turn})
        if is_open:
            self._fetch("response", access.object_id, owner.turn, owner.credential)

    def _pass(self) -> None:
        try:
            self.fetch_due()
        except (OcmError, OSError) as exc:
            _log.warning("Cannot look for responses in the background: %s", exc)

    def _due(self) -> list[_Pending]:
        """Return what to fetch now, and schedule the attempt after this one."""
        now = self._clock()
        window = {"since": now - GIVE_UP_SECONDS, "until": now - PASS_SECONDS}
        with self._database.read() as connection:
            pending = [_Pending(*row) for row in connection.execute(_PENDING, window)]
        scheduled = {each.turn_id: self._next_at.get(each.turn_id, 0.0) for each in pending}
        due = [each for each in pending if scheduled[each.turn_id] <= now][:MOST_PER_PASS]
        for each in due:
            pause = max(PASS_SECONDS, (now - each.started_at) / 4)
            scheduled[each.turn_id] = now + min(pause, LONGEST_SECONDS)
        self._next_at = scheduled
        return due

    def _fetch(self, kind: ObjectKind, object_id: str, turn_id: str, tag: str) -> None:
        account = self._accounts.by_tag.get(tag)
        if account is None:
            return
        try:
            credential = account.credentials.current()
            if credential.mode is not Mode.API_KEY:
                return
            target = api_target(f"{API_PREFIX}{_PATHS[kind]}/{object_id}")
            response = account.upstream.open(ClientRequest("GET", target, [], None), credential)
            try:
                self._settle(response, object_id, turn_id, FAMILIES.get(kind, "responses"))
            finally:
                response.close()
        except OcmError as exc:
            _log.warning("Cannot fetch a %s in the background: %s (%s)", kind, exc, exc.detail)

    def _settle(self, response: UpstreamResponse, object_id: str, turn_id: str, family: Family) -> None:
        observer = observer_for(
            status=response.status,
            media_type=value_of(response.fields, "content-type") or "",
            content_encoding=value_of(response.fields, "content-encoding") or "",
            family=family,
        )
        for piece in response.pieces():
            observer.feed(piece)
        outcome = observer.finish()
        if response.status == 200 and is_final(outcome, object_id):
            self._settlements.settle(turn_id, outcome, family=family)


class _Repeating:
    """A thread that calls a function repeatedly, for the first time after one pause."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-fetcher", daemon=True)
        self._has_started = False

    def start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._thread.start()

    def stop(self) -> None:
        self._is_stopped.set()

    def _run(self) -> None:
        while not self._is_stopped.wait(PASS_SECONDS):
            self._function()


_PENDING = (
    sa.select(
        db.stored_object.c.id,
        db.stored_object.c.kind,
        db.stored_object.c.credential,
        db.turn.c.id,
        db.turn.c.started_at,
    )
    .join(db.stored_object, db.stored_object.c.turn == db.turn.c.id)
    .where(
        db.turn.c.status == "in_progress",
        db.stored_object.c.kind.in_(_PATHS),
        db.turn.c.started_at >= sa.bindparam("since", type_=sa.Double),
        db.turn.c.started_at <= sa.bindparam("until", type_=sa.Double),
    )
    .order_by(db.turn.c.started_at)
)
_IS_OPEN = sa.select(db.turn.c.estimated | db.turn.c.input_tokens.is_(None)).where(
    db.turn.c.id == sa.bindparam("turn_id")
)
