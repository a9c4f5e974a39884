"""The order in which threads decide: after the loop's events, one at a time, and for all users in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from math import inf

import pytest

from ocm_wsgi.gateway.waiting import WaitsForUpstream
from ocm_wsgi.relay.decision_queue import DECISION_SECONDS, DecisionQueue
from ocm_wsgi.relay.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop that runs in the test's thread."""
    loop = Loop()
    yield loop
    loop.close()


class Threads:
    """A queue whose decisions run when the test says so, as threads would.

    :ivar begun: the decisions that have begun, in order, as the functions that threads would run.
    :ivar decided: the names of those that have decided.
    :ivar cancelled: the names of those that will not run.
    :ivar now: the loop's clock.
    """

    def __init__(self, loop: Loop) -> None:
        self.queue = DecisionQueue(loop)
        self.begun: deque[Callable[[], None]] = deque()
        self.decided: list[str] = []
        self.cancelled: list[str] = []
        self.now = loop.now
        self.has_threads = True

    def submit(self, *names: str, decide: Callable[[str], None] | None = None) -> None:
        """Submit decisions; the first letter of a name is the user."""
        for name in names:
            run = partial(decide or self.decided.append, name)
            self.queue.submit(name[0], self._start, run, cancel=partial(self.cancelled.append, name))

    def end_pass(self) -> float:
        """End a pass of the loop; return when the queue must be asked again, after that."""
        return self.queue.begin(self.now) - self.now

    def run_all(self) -> list[str]:
        """Run each decision as soon as it begins, until none is left; return their names."""
        self.end_pass()
        while self.begun:
            self.begun.popleft()()
            self.end_pass()
        return self.decided

    def _start(self, run: Callable[[], None]) -> None:
        if not self.has_threads:
            raise RuntimeError("the pool was shut down")
        self.begun.append(run)


@pytest.fixture
def threads(loop: Loop) -> Threads:
    """Return threads without decisions."""
    return Threads(loop)


def test_users_take_turns(threads: Threads) -> None:
    """A user with many requests delays another's by one decision, whenever it comes."""
    threads.submit("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    assert threads.run_all() == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_late_user_is_not_the_last(threads: Threads) -> None:
    """A user whose first request comes later waits for one decision of each user, not for all their requests."""
    threads.submit("a1", "a2", "a3", "a4")
    threads.end_pass()
    threads.submit("b1")
    assert threads.run_all() == ["a1", "a2", "b1", "a3", "a4"]


def test_one_decision_at_a_time(threads: Threads) -> None:
    """While one decision is in progress, none begins, of whichever user."""
    threads.submit("a1", "b1")
    threads.end_pass()
    threads.end_pass()
    assert len(threads.begun) == 1
    threads.begun.popleft()()
    threads.end_pass()
    assert (threads.decided, len(threads.begun)) == (["a1"], 1)


def test_nothing_begins_before_the_end_of_a_pass(loop: Loop, threads: Threads) -> None:
    """What is submitted while the loop dispatches events begins when it has dispatched all of them."""
    dispatched: list[int] = []

    def dispatch(number: int) -> None:
        threads.submit(f"a{number}")
        dispatched.append(len(threads.begun))
        if number == 2:
            loop.interrupt()

    for number in range(3):
        loop.defer(partial(dispatch, number))
    loop.run(30)
    assert (dispatched, len(threads.begun)) == ([0, 0, 0], 1)


def test_waiting_for_upstream_makes_room(threads: Threads) -> None:
    """The next decision begins while one waits for upstream; another does not begin once that has waited."""
    begin_waiting, has_waited = threading.Event(), threading.Event()
    end_waiting, end = threading.Event(), threading.Event()

    def decide(name: str) -> None:
        with WaitsForUpstream():
            begin_waiting.set()
            end_waiting.wait(30)
        has_waited.set()
        end.wait(30)
        threads.decided.append(name)

    threads.submit("a1", decide=decide)
    threads.submit("b1", "c1")
    threads.end_pass()
    thread = threading.Thread(target=threads.begun.popleft())
    thread.start()
    assert begin_waiting.wait(30)
    threads.end_pass()
    (b1,) = threads.begun
    end_waiting.set()
    assert has_waited.wait(30)
    b1()
    threads.now = time.monotonic()
    threads.end_pass()
    assert list(threads.begun) == [b1]
    end.set()
    thread.join(30)
    threads.end_pass()
    assert (threads.decided, len(threads.begun)) == (["b1", "a1"], 2)


def test_a_decision_that_takes_long_makes_room(threads: Threads) -> None:
    """A decision that a disk or a database delays does not delay the others by more than its time."""
    threads.submit("a1", "b1", "c1")
    assert threads.end_pass() == pytest.approx(DECISION_SECONDS)
    threads.now += DECISION_SECONDS * 0.9
    assert threads.end_pass() == pytest.approx(DECISION_SECONDS * 0.1)
    assert len(threads.begun) == 1
    threads.now += DECISION_SECONDS * 0.2
    threads.end_pass()
    assert len(threads.begun) == 2


def test_an_empty_queue_needs_no_attention(threads: Threads) -> None:
    """Without waiting decisions, the loop need not be woken for the queue."""
    assert threads.end_pass() == inf
    threads.submit("a1")
    assert threads.end_pass() == inf


def test_the_end_of_a_decision_wakes_the_loop(loop: Loop) -> None:
    """The next decision begins when one ends in its thread, although no event of a socket occurs."""
    ended: list[str] = []
    queue, first_has_begun = DecisionQueue(loop), threading.Event()

    def start(run: Callable[[], None]) -> None:
        threading.Thread(target=run).start()

    def first() -> None:
        first_has_begun.wait(30)
        ended.append("a1")

    def second() -> None:
        ended.append("b1")
        loop.defer(loop.interrupt)

    queue.submit("a", start, first, cancel=loop.interrupt)
    queue.submit("b", start, second, cancel=loop.interrupt)
    loop.defer(first_has_begun.set)
    loop.run(30)
    assert ended == ["a1", "b1"]


def fail(_name: str) -> None:
    """Fail."""
    raise ZeroDivisionError


def test_a_decision_that_fails(threads: Threads) -> None:
    """The next one begins, too."""
    threads.submit("a1", decide=fail)
    threads.submit("a2")
    threads.end_pass()
    with suppress(ZeroDivisionError):
        threads.begun.popleft()()
    assert threads.run_all() == ["a2"]


def test_no_threads(threads: Threads) -> None:
    """What no thread will run is cancelled, and delays nothing."""
    threads.has_threads = False
    threads.submit("a1", "a2", "b1")
    assert threads.end_pass() == inf
    assert (threads.cancelled, threads.decided) == (["a1", "b1", "a2"], [])
