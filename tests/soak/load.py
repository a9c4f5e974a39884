"""Clients that perform actions repeatedly, and can be paused."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from types import TracebackType

from tests.soak.actions import ACTIONS, Action
from tests.soak.client import SoakClient, Tally

#: The pause between two actions of a client, in seconds.
PAUSE_SECONDS = 0.2
#: How long to wait for clients to finish; the longest action takes a few seconds.
REST_SECONDS = 60.0


class Load:
    """A number of clients, each in a thread. A context manager; the clients are paused at first.

    Each client begins with a different action, so that all occur; the following ones are random.

    :param users: name to bearer token; clients are assigned to users in turn.
    :param seed: seed of the clients' random choices. The order in which they run is still not deterministic.
    """

    def __init__(self, address: tuple[str, int], users: Mapping[str, str], *, clients: int, seed: int) -> None:
        self.tally = Tally()
        self._changed = threading.Condition()
        self._is_working = False
        self._is_over = False
        self._busy = 0
        self._threads = []
        for number in range(clients):
            user, token = list(users.items())[number % len(users)]
            client = SoakClient(address, user, token, self.tally, random.Random(seed + number))
            first = list(ACTIONS)[number % len(ACTIONS)]
            self._threads.append(threading.Thread(target=self._run, args=(client, first), name=f"client-{number}"))

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
        """Let the clients work."""
        with self._changed:
            self._is_working = True
            self._changed.notify_all()

    def pause(self) -> bool:
        """Let the clients finish their current actions; return whether all did in time."""
        with self._changed:
            self._is_working = False
            return self._changed.wait_for(lambda: self._busy == 0, REST_SECONDS)

    def _run(self, client: SoakClient, action: Action) -> None:
        while self._wait_for_work():
            try:
                self._perform(client, action)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
            client.pause(0, PAUSE_SECONDS)
            (action,) = client.choose.choices(list(ACTIONS), list(ACTIONS.values()))

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_working or self._is_over)
            self._busy += not self._is_over
            return not self._is_over

    def _perform(self, client: SoakClient, action: Action) -> None:
        try:
            action(client)
        except Exception as exc:  # Any failure is reported at the end; other clients continue.
            self.tally.failures.append(f"{action.__name__}: {type(exc).__name__}: {exc}")
        self.tally.actions.append(action.__name__)
