"""One user's messages are decided one after another, those of several users side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from ocm_wsgi.relay.admission_queue import AdmissionQueue


class Threads:
    """Runs functions when the test says so, as threads and the loop would.

    :ivar users: whose decisions were submitted, in order.
    :ivar decided: what was decided, in order.
    """

    def __init__(self) -> None:
        self.submitted: deque[Callable[[], None]] = deque()
        self.users: list[str] = []
        self.deferred: deque[Callable[[], None]] = deque()
        self.decided: list[str] = []
        self.queue = AdmissionQueue(self._submit, self.deferred.append)

    def submit(self, user: str, name: str) -> None:
        """Submit a decision."""
        self.queue.submit(user, lambda: self.decided.append(name))

    def _submit(self, user: str, decide: Callable[[], None]) -> None:
        self.users.append(user)
        self.submitted.append(decide)

    def step(self) -> None:
        """Run what was submitted, and then what was deferred."""
        for waiting in (self.submitted, self.deferred):
            for _ in range(len(waiting)):
                waiting.popleft()()


def test_one_decision_of_each_user() -> None:
    """A user's next decision begins when the last one has ended; another user's does not wait for it."""
    threads = Threads()
    for name in ("a1", "a2", "a3", "b1", "b2"):
        threads.submit(name[0], name)
    assert len(threads.submitted) == 2
    threads.step()
    assert threads.decided == ["a1", "b1"]
    threads.submit("c", "c1")
    threads.step()
    assert threads.decided == ["a1", "b1", "a2", "b2", "c1"]
    threads.step()
    assert threads.decided[-1] == "a3"
    threads.step()
    threads.submit("a", "a4")
    threads.step()
    assert threads.decided[-1] == "a4"
    assert not threads.submitted
    assert threads.users == ["a", "b", "a", "b", "c", "a", "a"]


def fail() -> None:
    """Fail."""
    raise ZeroDivisionError


def test_a_decision_that_fails() -> None:
    """The next one runs, too."""
    threads = Threads()
    threads.queue.submit("a", fail)
    threads.submit("a", "a2")
    with pytest.raises(ZeroDivisionError):
        threads.step()
    threads.step()
    threads.step()
    assert threads.decided == ["a2"]
