"""The threads that requests are handled in."""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ocm_wsgi.server.thread_pool import ThreadPool

WITHIN_SECONDS = 30


class Crew:
    """A pool of threads, and who has done what."""

    def __init__(self, size: int) -> None:
        self.pool = ThreadPool(size, "crew")
        self.done: queue.Queue[tuple[str, threading.Thread]] = queue.Queue()

    def do(self, name: str, *, behind: threading.Barrier | None = None) -> None:
        """Submit work that ends at once, or when enough others are as far."""
        self.pool.submit(partial(self._work, name, behind))

    def _work(self, name: str, behind: threading.Barrier | None) -> None:
        if behind is not None:
            behind.wait(WITHIN_SECONDS)
        self.done.put((name, threading.current_thread()))

    def results(self, count: int) -> list[tuple[str, threading.Thread]]:
        """What is done next, and by whom."""
        return [self.done.get(timeout=WITHIN_SECONDS) for _ in range(count)]

    def rest(self, threads: int) -> None:
        """Return when so many threads wait for work."""
        idle = threading.Event()
        while len(self.pool._idle) < threads:
            assert not idle.wait(0.001)

    def all_at_work(self, count: int) -> set[threading.Thread]:
        """So many threads, at rest again after each has worked while all others did."""
        barrier = threading.Barrier(count)
        for _ in range(count):
            self.do("together", behind=barrier)
        threads = {thread for _, thread in self.results(count)}
        self.rest(count)
        return threads


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Three threads at most."""
    crew = Crew(3)
    yield crew
    crew.pool.shutdown()


def test_last_busy_thread_is_woken_first(crew: Crew) -> None:
    """Consecutive tasks run in one thread, however many there are."""
    assert len(crew.all_at_work(3)) == 3
    by = set()
    for _ in range(20):
        crew.do("alone")
        by |= {thread for _, thread in crew.results(1)}
        crew.rest(3)
    assert len(by) == 1


def test_no_more_threads_than_needed(crew: Crew) -> None:
    """An idle thread is used before another is started."""
    for _ in range(20):
        crew.do("alone")
        crew.results(1)
        crew.rest(1)
    assert len(crew.all_at_work(2)) == 2


def test_excess_tasks_are_queued(crew: Crew) -> None:
    """Tasks beyond the number of threads run later, all of them."""
    barrier = threading.Barrier(4)
    for _ in range(3):
        crew.do("first", behind=barrier)
    for number in range(20):
        crew.do(f"later-{number}")
    assert crew.done.empty()
    barrier.wait(WITHIN_SECONDS)
    names = [name for name, _ in crew.results(23)]
    assert Counter(names) == {"first": 3} | {f"later-{number}": 1 for number in range(20)}


@pytest.mark.parametrize("work", [partial(int, "no number"), sys.exit])
def test_failing_task_is_logged(crew: Crew, caplog: pytest.LogCaptureFixture, work: Callable[[], None]) -> None:
    """It ends neither its thread nor the queued tasks."""
    (before,) = crew.all_at_work(1)
    crew.pool.submit(work)
    crew.rest(1)
    crew.do("next")
    assert crew.results(1) == [("next", before)]
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("Unhandled exception in a pool thread", True)


def test_shut_down(crew: Crew) -> None:
    """Idle threads exit, submitted tasks are run, and no more are accepted."""
    resting = crew.all_at_work(2)
    barrier = threading.Barrier(4)
    for _ in range(3):
        crew.do("under way", behind=barrier)
    crew.do("waiting")
    crew.pool.shutdown()
    with pytest.raises(RuntimeError):
        crew.do("too late")
    barrier.wait(WITHIN_SECONDS)
    results = crew.results(4)
    assert sorted(name for name, _ in results) == ["under way"] * 3 + ["waiting"]
    for thread in resting | {thread for _, thread in results}:
        thread.join(WITHIN_SECONDS)
        assert not thread.is_alive()


def test_shutdown_cancels_queued_tasks(crew: Crew) -> None:
    """With ``cancel_futures``, queued tasks are dropped."""
    barrier = threading.Barrier(4)
    for _ in range(3):
        crew.do("under way", behind=barrier)
    crew.do("waiting")
    crew.pool.shutdown(cancel_futures=True)
    barrier.wait(WITHIN_SECONDS)
    for _, thread in crew.results(3):
        thread.join(WITHIN_SECONDS)
    assert crew.done.empty()


def test_thread_that_cannot_be_started(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """The existing threads run the task; if there is none, the caller gets an error."""

    def cannot(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        with pytest.raises(RuntimeError):
            crew.do("nobody")
    barrier = threading.Barrier(2)
    crew.do("first", behind=barrier)
    monkeypatch.setattr(threading.Thread, "start", cannot)
    crew.do("second")
    barrier.wait(WITHIN_SECONDS)
    assert [name for name, _ in crew.results(2)] == ["first", "second"]
