"""Decides about new turns after the events of open streams, few at a time, and in turn for all users.

Threads that decide compete with the loop for the interpreter: with each system call the loop gives it up, and waits
until one of them does. With dozens of them, each event of an open stream would take as many times longer. So a decision
begins only when the loop has dispatched all events that were ready, and only if few others are in progress. This does
not delay new turns as a whole, since the interpreter decides about one at a time anyway.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from ocm_wsgi.gateway.waiting import notify_waiting
from ocm_wsgi.relay.loop import Loop

#: Decisions that compete for the interpreter at the same time; it runs one thread at a time anyway.
DECISIONS = 1
#: A decision that takes longer probably waits for a disk or a database, and no longer counts.
DECISION_SECONDS = 0.05
#: The user of a request whose sender is not known yet. All such requests queue together.
STRANGER = ""

Run = Callable[[], None]
#: Runs a function in another thread.
#:
#: :raises RuntimeError: no thread will run it.
Submit = Callable[[Run], None]


@dataclass(frozen=True)
class _Waiting:
    """A decision that has not begun."""

    submit: Submit
    decide: Run
    cancel: Run


class DecisionQueue:
    """A queue for each user, over the threads that decide about turns. For the loop's thread only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # In the order in which users get their turn.
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._decisions: list[_Decision] = []
        loop.at_pass_end(self.begin)

    def submit(self, user: str, submit: Submit, decide: Run, *, cancel: Run) -> None:
        """Run a function in another thread when it is the user's turn.

        :param decide: while it waits for upstream (:class:`WaitsForUpstream`), another decision may begin.
        :param cancel: called in the loop's thread if no thread will run it.
        """
        self._waiting.setdefault(user, deque()).append(_Waiting(submit, decide, cancel))

    def begin(self, now: float) -> float:
        """Begin as many decisions as may, at the end of a pass of the loop.

        :return: when to call this again, even if nothing happens until then.
        """
        if not self._waiting:
            return inf
        self._decisions = [each for each in self._decisions if not each.has_ended]
        busy = [each.busy_until for each in self._decisions if each.busy_until > now]
        while self._waiting and len(busy) < DECISIONS:
            busy += self._begin_next(now)
        return min(busy, default=inf) if self._waiting else inf

    def _begin_next(self, now: float) -> Sequence[float]:
        """Begin the first decision of the user whose turn it is, who is the last one then; return its ``busy_until``.

        That is none if no thread will run it.
        """
        user = next(iter(self._waiting))
        queue = self._waiting.pop(user)
        waiting = queue.popleft()
        if queue:
            self._waiting[user] = queue
        decision = _Decision(waiting.decide, now + DECISION_SECONDS, self._on_idle)
        try:
            waiting.submit(decision.run)
        except RuntimeError:
            waiting.cancel()
            return ()
        self._decisions.append(decision)
        return (decision.busy_until,)

    def _on_idle(self) -> None:
        """Have the next decision begin; called in the thread of one that waits for upstream now, or has ended."""
        # Usually nobody is waiting, and the loop can sleep on. If the loop adds one at this moment, it finds this
        # decision idle.
        if self._waiting:
            self._loop.defer(_nothing)


class _Decision:
    """A decision that has begun.

    :ivar busy_until: it competes for the interpreter until then, on the monotonic clock; 0 while it waits for upstream.
    :ivar has_ended: whether it can be forgotten.
    """

    __slots__ = ("_decide", "_on_idle", "busy_until", "has_ended")

    def __init__(self, decide: Run, busy_until: float, on_idle: Run) -> None:
        self.busy_until = busy_until
        self.has_ended = False
        self._decide = decide
        self._on_idle = on_idle

    def run(self) -> None:
        """Decide; called in a thread."""
        notify_waiting(self._notify)
        try:
            self._decide()
        finally:
            notify_waiting(None)
            self.has_ended = True
            self._notify(True)

    def _notify(self, is_waiting: bool) -> None:
        self.busy_until = 0.0 if is_waiting else time.monotonic() + DECISION_SECONDS
        if is_waiting:
            self._on_idle()


def _nothing() -> None:
    """Be deferred, which wakes the loop."""
