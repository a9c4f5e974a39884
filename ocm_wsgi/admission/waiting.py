"""Bounds the requests of one user that occupy a worker's threads: those that upstream has not begun to answer.

Each of them holds a thread until the head of upstream's response has arrived, whatever its endpoint. In this process
only, like the threads: a system call for each request would cost more than it protects.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from ocm_wsgi.errors import TooManyConcurrent

#: For servers that do not say how many threads they have; as in gunicorn.conf.py.
DEFAULT_THREADS = 128

#: A user with this part of the threads is refused more of them, once all users together have that part.
USER_PART = 1 / 4
ALL_PART = 1 / 2

#: A process with fewer threads bounds nobody: a burst of quick requests may well need all of them for a moment.
LEAST_THREADS = 16

_RETRY_SECONDS = 5


class WaitingRequests:
    """The requests of this process that occupy a thread. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = 0
        self._of_user: dict[str, int] = {}

    def counted(self, user: str, threads: int = DEFAULT_THREADS) -> AbstractContextManager[None]:
        """Count a request while it is being handled: from now on, until the end of the context.

        :param user: the user's name; ``""``, of a service without users, is not bounded, for there are no others.
        :param threads: of this process, for requests; with fewer than ``LEAST_THREADS`` nobody is bounded.
        :raises TooManyConcurrent: too many requests of the user are waiting.
        """
        with self._lock:
            waiting = self._of_user.get(user, 0)
            is_bounded = bool(user) and threads >= LEAST_THREADS
            if is_bounded and waiting >= threads * USER_PART and self._all >= threads * ALL_PART:
                raise TooManyConcurrent(
                    f"OpenAI has not begun to answer {waiting} of your requests, which is as many as can wait here at "
                    "present. Try again when some of them are answered.",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            self._of_user[user] = waiting + 1
            self._all += 1
        return _Waiting(self, user)

    def end(self, user: str) -> None:
        """Count a request of a user no longer."""
        with self._lock:
            self._all -= 1
            waiting = self._of_user[user] - 1
            if waiting:
                self._of_user[user] = waiting
            else:
                del self._of_user[user]


class _Waiting(AbstractContextManager[None]):
    """A request that is counted."""

    __slots__ = ("_requests", "_user")

    def __init__(self, requests: WaitingRequests, user: str) -> None:
        self._requests = requests
        self._user = user

    def __exit__(self, *failure: object) -> None:
        self._requests.end(self._user)
