"""The thread pool that handles requests."""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ocm_wsgi.server.thread_pool import ThreadPool

TIMEOUT_SECONDS = 30


class TaskRecorder:
    """A thread pool, and a record of which thread has run which task."""

    def __init__(self, size: int) -> None:
        self.pool = ThreadPool(size, "test")
        self.done: queue.Queue[tuple[str, threading.Thread]] = queue.Queue()

    def submit(self, name: str, *, barrier: threading.Barrier | None = None) -> None:
        """Submit a task that ends immediately, or at the barrier if there is one."""
        self.pool.submit(partial(self._work, name, barrier))

    def _work(self, name: str, barrier: threading.Barrier | None) -> None:
        if barrier is not None:
            barrier.wait(TIMEOUT_SECONDS)
        self.done.put((name, threading.current_thread()))

    def results(self, count: int) -> list[tuple[str, threading.Thread]]:
        """Return the next tasks that are done, each with its thread."""
        return [self.done.get(timeout=TIMEOUT_SECONDS) for _ in range(count)]

    def wait_until_idle(self, threads: int) -> None:
        """Wait until at least this number of threads are idle."""
        idle = threading.Event()
        while len(self.pool._idle) < threads:
            assert not idle.wait(0.001)

    def run_together(self, count: int) -> set[threading.Thread]:
        """Return the threads that have run tasks at the same time, once all of them are idle again."""
        barrier = threading.Barrier(count)
        for _ in range(count):
            self.submit("together", barrier=barrier)
        threads = {thread for _, thread in self.results(count)}
        self.wait_until_idle(count)
        return threads


@pytest.fixture
def recorder() -> Iterator[TaskRecorder]:
    """A pool of at most three threads."""
    recorder = TaskRecorder(3)
    yield recorder
    recorder.pool.shutdown()


def test_last_busy_thread_is_woken_first(recorder: TaskRecorder) -> None:
    """Consecutive tasks run in one thread, however many threads there are."""
    assert len(recorder.run_together(3)) == 3
    threads = set()
    for _ in range(20):
        recorder.submit("alone")
        threads |= {thread for _, thread in recorder.results(1)}
        recorder.wait_until_idle(3)
    assert len(threads) == 1


def test_no_more_threads_than_needed(recorder: TaskRecorder) -> None:
    """An idle thread is used before another is started."""
    for _ in range(20):
        recorder.submit("alone")
        recorder.results(1)
        recorder.wait_until_idle(1)
    assert len(recorder.run_together(2)) == 2


def test_excess_tasks_are_queued(recorder: TaskRecorder) -> None:
    """Tasks beyond the number of threads run later, all of them."""
    barrier = threading.Barrier(4)
    for _ in range(3):
        recorder.submit("first", barrier=barrier)
    for number in range(20):
        recorder.submit(f"later-{number}")
    assert recorder.done.empty()
    barrier.wait(TIMEOUT_SECONDS)
    names = [name for name, _ in recorder.results(23)]
    assert Counter(names) == {"first": 3} | {f"later-{number}": 1 for number in range(20)}


@pytest.mark.parametrize("work", [partial(int, "no number"), sys.exit])
def test_failing_task_is_logged(
    recorder: TaskRecorder, caplog: pytest.LogCaptureFixture, work: Callable[[], None]
) -> None:
    """Its thread survives, and queued tasks still run."""
    (before,) = recorder.run_together(1)
    recorder.pool.submit(work)
    recorder.wait_until_idle(1)
    recorder.submit("next")
    assert recorder.results(1) == [("next", before)]
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("Unhandled exception in a pool thread", True)


def test_shut_down(recorder: TaskRecorder) -> None:
    """Idle threads exit, submitted tasks still run, and new tasks are refused."""
    idle = recorder.run_together(2)
    barrier = threading.Barrier(4)
    for _ in range(3):
        recorder.submit("running", barrier=barrier)
    recorder.submit("queued")
    recorder.pool.shutdown()
    with pytest.raises(RuntimeError):
        recorder.submit("too late")
    barrier.wait(TIMEOUT_SECONDS)
    results = recorder.results(4)
    assert sorted(name for name, _ in results) == ["queued"] + ["running"] * 3
    for thread in idle | {thread for _, thread in results}:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()


def test_shutdown_cancels_queued_tasks(recorder: TaskRecorder) -> None:
    """With ``cancel_futures``, queued tasks are dropped."""
    barrier = threading.Barrier(4)
    for _ in range(3):
        recorder.submit("running", barrier=barrier)
    recorder.submit("queued")
    recorder.pool.shutdown(cancel_futures=True)
    barrier.wait(TIMEOUT_SECONDS)
    for _, thread in recorder.results(3):
        thread.join(TIMEOUT_SECONDS)
    assert recorder.done.empty()


def test_thread_that_cannot_be_started(recorder: TaskRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The existing threads run the task; if there are none, the caller gets an error."""

    def fail_to_start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail_to_start)
        with pytest.raises(RuntimeError):
            recorder.submit("nobody")
    barrier = threading.Barrier(2)
    recorder.submit("first", barrier=barrier)
    monkeypatch.setattr(threading.Thread, "start", fail_to_start)
    recorder.submit("second")
    barrier.wait(TIMEOUT_SECONDS)
    assert [name for name, _ in recorder.results(2)] == ["first", "second"]
