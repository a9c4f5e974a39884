"""An answer that names stored objects: relayed as it is, but not before its user is recorded as their owner.

A stream is held from its beginning until its first event has named the object and the claim is durable, which takes
some milliseconds. Of any other answer, as of every turn's, the last byte is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ocm_wsgi.accounting.recorder import OnRecorded, ignore_durability
from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.ownership.owners import Owners
from ocm_wsgi.protocol.endpoints.endpoint import Family, ObjectKind
from ocm_wsgi.protocol.objects.answers import FirstEvent, objects_in
from ocm_wsgi.protocol.objects.stored_object import NamedObject
from ocm_wsgi.protocol.responses.observer import Observer
from ocm_wsgi.protocol.responses.turn import Outcome, Turn
from ocm_wsgi.protocol.responses.withheld_end import WithheldEnd
from ocm_wsgi.quota.credential import DEFAULT_CREDENTIAL


class Answer(Protocol):
    """An answer that is being relayed; ``accounting.turn_accounting.OpenTurn`` is one, and says what the methods do.

    :ivar turn: as it is recorded, once that is known; ``None`` if the answer is not a turn's.
    :ivar is_due: whether there is something to record before more of the answer is sent.
    """

    @property
    def turn(self) -> Turn | None: ...
    @property
    def is_due(self) -> bool: ...
    @property
    def outcome(self) -> Outcome | None:
        """How the answer ended, once it has."""

    def feed(self, piece: bytes) -> bytes: ...
    def finish(self) -> None: ...
    def record(self) -> None: ...
    def record_async(self, on_recorded: OnRecorded) -> None: ...
    def release(self) -> bytes: ...
    def client_left(self) -> bool: ...
    def close(self) -> None: ...
    def close_async(self) -> None: ...


class PlainAnswer:
    """An answer that is not a turn's. Its end is held until it has been read: a stream's last event, else one byte.

    :param is_stream: whether it is a stream of events.
    """

    def __init__(self, observer: Observer, *, is_stream: bool) -> None:
        self.turn: Turn | None = None
        self.outcome: Outcome | None = None
        self.is_due = False
        self._observer = observer
        self._withheld = WithheldEnd(is_stream=is_stream)

    def feed(self, piece: bytes) -> bytes:
        sendable, outcome = self._observer.feed(piece)
        if outcome is not None and self.outcome is None:
            self._end(outcome)
            return self._withheld.hold_from(piece, sendable)
        # After the end of a stream that has nothing to record, its rest.
        return self._withheld.release() + self._withheld.pass_through(piece)

    def finish(self) -> None:
        if self.outcome is None:
            self._end(self._observer.finish())
        self._withheld.finish()

    def record(self) -> None:
        """Do nothing: only its objects are recorded."""

    def record_async(self, on_recorded: OnRecorded) -> None:
        on_recorded("database")

    def release(self) -> bytes:
        return self._withheld.release()

    def client_left(self) -> bool:
        """Return false: nothing in the rest of it counts."""
        return False

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def close_async(self) -> None:
        """Do nothing, as :meth:`close`."""

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome


class FetchedAnswer(PlainAnswer):
    """A response or a job that was asked for earlier. If it says what it used, its turn is settled before its end.

    :param turn_id: of the turn that created it.
    :param family: which of them it is.
    """

    def __init__(
        self,
        observer: Observer,
        settlements: Settlements,
        turn_id: str,
        response_id: str,
        *,
        is_stream: bool,
        family: Family = "responses",
    ) -> None:
        super().__init__(observer, is_stream=is_stream)
        self._settlements = settlements
        self._turn_id = turn_id
        self._response_id = response_id
        self._family: Family = family

    def record(self) -> None:
        """Settle the turn, and wait until that is durable."""
        if self.is_due and self.outcome is not None:
            self.is_due = False
            self._settlements.settle(self._turn_id, self.outcome, family=self._family)

    def record_async(self, on_recorded: OnRecorded) -> None:
        """Settle the turn without waiting, and call ``on_recorded`` once, from another thread."""
        if self.is_due and self.outcome is not None:
            self.is_due = False
            self._settlements.settle_async(self._turn_id, self.outcome, on_recorded, family=self._family)

    def close(self) -> None:
        """Settle the turn, if its end has arrived."""
        self.record()

    def close_async(self) -> None:
        """Settle the turn without waiting, if its end has arrived."""
        self.record_async(ignore_durability)

    def _end(self, outcome: Outcome) -> None:
        super()._end(outcome)
        self.is_due = is_final(outcome, self._response_id)


def is_final(outcome: Outcome, response_id: str) -> bool:
    """Return whether an answer says how a response ended, and what it used."""
    is_response = outcome.body is not None and outcome.body.get("id") == response_id
    return is_response and outcome.usage is not None and outcome.status in ("completed", "incomplete", "failed")


class OpenAnswer:
    """An answer whose objects are claimed before their IDs are sent. For one thread at a time.

    :param inner: the same answer without claims: a turn, or a :class:`PlainAnswer`.
    :param user: the owner of the objects.
    :param creates: the kind of the object that the request creates, or ``None``.
    :param first_event: searches a stream for that object; ``None`` if the answer is no stream.
    :param turn_id: of the turn that the answer is, or ``None``.
    :param credential: the tag of the account that stores the objects.
    """

    def __init__(
        self,
        inner: Answer,
        owners: Owners,
        user: str,
        creates: ObjectKind | None,
        *,
        first_event: FirstEvent | None = None,
        turn_id: str | None = None,
        credential: str = DEFAULT_CREDENTIAL,
    ) -> None:
        self._inner = inner
        self._credential = credential
        self._owners = owners
        self._user = user
        self._creates = creates
        self._first_event = first_event
        self._turn_id = turn_id
        self._held = b""  # from the beginning of a stream
        self._claims: list[NamedObject] = []
        self._claimed: set[str] = set()
        self._is_claiming = False
        self._is_read = False

    @property
    def turn(self) -> Turn | None:
        """The turn as it is recorded, once that is known."""
        return self._inner.turn

    @property
    def outcome(self) -> Outcome | None:
        """How the answer ended, once it has."""
        return self._inner.outcome

    @property
    def is_due(self) -> bool:
        """Whether objects must be claimed, or the turn recorded, before more of the answer is sent."""
        return bool(self._claims) or self._inner.is_due

    def feed(self, piece: bytes) -> bytes:
        """Observe a piece of the body. Return what may be sent now, of this piece and of what was held before."""
        passing = self._inner.feed(piece)
        if self._first_event is not None:
            passing = self._search(self._first_event, piece, passing)
        self._read_outcome()
        return passing

    def client_left(self) -> bool:
        """Note that the client left before the end. Return whether to read the answer on."""
        return self._inner.client_left()

    def finish(self) -> None:
        """Note that the body is complete according to its framing. Calling this again does nothing."""
        self._inner.finish()
        self._first_event = None
        self._read_outcome()

    def record(self) -> None:
        """Claim the objects, or else record the turn, and wait until that is durable."""
        if claims := self._take_claims():
            self._owners.claim(self._user, claims, credential=self._credential, turn=self._turn_id)
        else:
            self._inner.record()

    def record_async(self, on_recorded: OnRecorded) -> None:
        """Claim the objects, or else record the turn, without waiting. Call ``on_recorded`` from another thread."""
        if claims := self._take_claims():
            self._owners.claim_async(self._user, claims, on_recorded, credential=self._credential, turn=self._turn_id)
        else:
            self._inner.record_async(on_recorded)

    def release(self) -> bytes:
        """Return what may be sent now that everything due before it is durable."""
        held, self._held = self._held, b""
        is_claiming, self._is_claiming = self._is_claiming, False
        if self._inner.is_due or (is_claiming and self._inner.outcome is None):
            return held
        return held + self._inner.release()

    def observed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a response's body, and each part only once what is due before it is durable."""
        for piece in pieces:
            if sendable := self.feed(piece):
                yield sendable
            yield from self._released()
        self.finish()
        yield from self._released()
        if withheld := self.release():
            yield withheld

    def close(self) -> None:
        """Claim the objects whose IDs never reached the client, too: a background response goes on."""
        if claims := self._take_claims():
            self._owners.claim(self._user, claims, credential=self._credential, turn=self._turn_id)
        self._inner.close()

    def close_async(self) -> None:
        """Close the answer as :meth:`close` does, without waiting."""
        if claims := self._take_claims():
            self._owners.claim_async(
                self._user, claims, ignore_durability, credential=self._credential, turn=self._turn_id
            )
        self._inner.close_async()

    def _released(self) -> Iterator[bytes]:
        while self.is_due:
            self.record()
            if released := self.release():
                yield released

    def _search(self, first_event: FirstEvent, piece: bytes, passing: bytes) -> bytes:
        """Hold what may be sent until the object is found, or will not be."""
        first_event.feed(piece)
        self._held += passing
        if not first_event.is_over and self._inner.outcome is None:
            return b""
        self._first_event = None
        self._add(first_event.objects)
        if self._claims:
            return b""
        passing, self._held = self._held, b""
        return passing

    def _read_outcome(self) -> None:
        """Note the objects in an answer that has ended."""
        outcome = self._inner.outcome
        if outcome is not None and not self._is_read:
            self._is_read = True
            if outcome.body is not None:
                self._add(objects_in(outcome.body, self._creates))

    def _add(self, objects: Iterable[NamedObject]) -> None:
        for each in objects:
            if each.id not in self._claimed:
                self._claimed.add(each.id)
                self._claims.append(each)

    def _take_claims(self) -> list[NamedObject]:
        claims, self._claims = self._claims, []
        self._is_claiming = bool(claims)
        return claims
