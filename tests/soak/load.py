"""Clients that come again and again, and rest when they are told to."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from types import TracebackType

from tests.soak.visitor import Tally, Visitor
from tests.soak.visits import VISITS, Visit

#: Between two visits of one client, in seconds.
PAUSE_SECONDS = 0.2
#: The longest visit takes a few seconds.
REST_SECONDS = 60.0


class Load:
    """So many clients, each in a thread. A context; they rest at its beginning.

    Each begins with another kind of visit, so that all kinds occur; what follows is chosen by chance.

    :param users: name to bearer token; clients are theirs in turn.
    :param seed: of all that clients choose by chance. The order of what they do is chance all the same.
    """

    def __init__(self, address: tuple[str, int], users: Mapping[str, str], *, clients: int, seed: int) -> None:
        self.tally = Tally()
        self._changed = threading.Condition()
        self._is_working = False
        self._is_over = False
        self._visiting = 0
        self._threads = []
        for number in range(clients):
            user, token = list(users.items())[number % len(users)]
            visitor = Visitor(address, user, token, self.tally, random.Random(seed + number))
            first = list(VISITS)[number % len(VISITS)]
            self._threads.append(threading.Thread(target=self._run, args=(visitor, first), name=f"client-{number}"))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def work(self) -> None:
        """Let clients come."""
        with self._changed:
            self._is_working = True
            self._changed.notify_all()

    def rest(self) -> bool:
        """Let clients finish what they are at; return whether all did in time."""
        with self._changed:
            self._is_working = False
            return self._changed.wait_for(lambda: self._visiting == 0, REST_SECONDS)

    def _run(self, visitor: Visitor, visit: Visit) -> None:
        while self._begin():
            try:
                self._visit(visitor, visit)
            finally:
                with self._changed:
                    self._visiting -= 1
                    self._changed.notify_all()
            visitor.pause(0, PAUSE_SECONDS)
            (visit,) = visitor.choose.choices(list(VISITS), list(VISITS.values()))

    def _begin(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_working or self._is_over)
            self._visiting += not self._is_over
            return not self._is_over

    def _visit(self, visitor: Visitor, visit: Visit) -> None:
        try:
            visit(visitor)
        except Exception as exc:  # Whatever it is, it is told at the end; the others go on.
            self.tally.failures.append(f"{visit.__name__}: {type(exc).__name__}: {exc}")
        self.tally.visits.append(visit.__name__)
