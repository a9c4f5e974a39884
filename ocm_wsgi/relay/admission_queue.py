"""Decides about the WebSocket messages of one user one after another, and about those of several users side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial


class AdmissionQueue:
    """A queue for each user, over the threads that read and admit messages.

    Without it, one user with some sockets could occupy them all. For the loop's thread.

    :param submit: runs a function in another thread when it is the user's turn.
    :param defer: schedules a callback in the loop's thread; may be called from any thread.
    """

    def __init__(
        self, submit: Callable[[str, Callable[[], None]], object], defer: Callable[[Callable[[], None]], None]
    ) -> None:
        self._submit = submit
        self._defer = defer
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def submit(self, user: str, decide: Callable[[], None]) -> None:
        """Run a function in another thread, after the others of this user."""
        queue = self._waiting.get(user)
        if queue is not None:
            queue.append(decide)
            return
        self._waiting[user] = deque()
        self._run(user, decide)

    def _run(self, user: str, decide: Callable[[], None]) -> None:
        def run() -> None:
            try:
                decide()
            finally:
                self._defer(partial(self._continue, user))

        self._submit(user, run)

    def _continue(self, user: str) -> None:
        queue = self._waiting[user]
        if queue:
            self._run(user, queue.popleft())
        else:
            del self._waiting[user]
