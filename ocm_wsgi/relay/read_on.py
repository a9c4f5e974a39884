"""Bounds how many answers are read on after their clients have left.

An answer costs the owner the same whether its client waits for the end or not. That of a user with limits is read on
for some seconds, up to its terminal event, for its true usage; if that does not come in time, the turn is charged an
estimate.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

#: How long an answer is read on, in seconds.
READ_ON_SECONDS = 5.0
#: How many answers of one worker, and of one user in it, are read on at the same time.
MAX_READ_ON = 64
MAX_READ_ON_PER_USER = 8


class _HasEnd(Protocol):
    def finish(self) -> None: ...


class ReadOns:
    """The answers of one worker that are being read on. For one thread.

    :param most: at the same time; ``most_per_user`` likewise.
    :ivar rests: those that no client's connection belongs to any longer.
    """

    def __init__(self, *, most: int = MAX_READ_ON, most_per_user: int = MAX_READ_ON_PER_USER) -> None:
        self.rests: set[_HasEnd] = set()
        self._most = most
        self._most_per_user = most_per_user
        self._by_user: Counter[str] = Counter()

    def begin(self, user: str) -> bool:
        """Count an answer of a user, unless there are too many; return whether to read it on."""
        if sum(self._by_user.values()) >= self._most or self._by_user[user] >= self._most_per_user:
            return False
        self._by_user[user] += 1
        return True

    def end(self, user: str) -> None:
        """Note that an answer is no longer read."""
        self._by_user[user] -= 1
        if not self._by_user[user]:
            del self._by_user[user]

    def abort(self) -> None:
        """Finish those that no client's connection belongs to."""
        for rest in list(self.rests):
            rest.finish()
