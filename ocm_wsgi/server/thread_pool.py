"""A thread pool that wakes exactly one thread per task: the one that was busy last.

In ``concurrent.futures`` each task wakes two threads, the second in vain: they wait on one queue
(``queue.SimpleQueue``), and a thread that takes a task from it passes the queue's lock on to the next. With the GIL
that costs about four thread switches per request, and each request runs in a different thread. The thread that was
busy last has its stack in the processor's caches, and the stacks of threads that are never needed are not in memory.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger(__name__)


class ThreadPool:
    """Runs tasks in as few threads as necessary; beyond ``size`` at the same time, they are queued.

    The interpreter waits at its exit for running tasks, as for any non-daemon thread.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._count = 0
        self._idle: list[_IdleThread] = []
        self._queue: deque[Callable[[], None]] = deque()
        self._is_shut_down = False

    def submit(self, work: Callable[[], None]) -> None:
        """Run a task in a thread. Exceptions that it raises are logged.

        :raises RuntimeError: the pool was shut down, or not even its first thread can be started.
        """
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool was shut down")
            if self._idle:
                idle_thread = self._idle.pop()
                idle_thread.work = work
                idle_thread.wake_lock.release()
                return
            if self._count == self._size or not self._try_to_start_thread(work):
                self._queue.append(work)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Let the threads exit when there are no more tasks; parameters as for ``concurrent.futures.Executor``.

        :param wait: must be false; the interpreter waits at its exit.
        :param cancel_futures: drop queued tasks.
        """
        with self._lock:
            self._is_shut_down = True
            if cancel_futures:
                self._queue.clear()
            idle, self._idle = self._idle, []
        for idle_thread in idle:
            idle_thread.wake_lock.release()

    def _try_to_start_thread(self, work: Callable[[], None]) -> bool:
        thread = threading.Thread(target=self._run, args=(work,), name=f"{self._name}-{self._count}")
        try:
            thread.start()
        except RuntimeError:
            # The system allows no more threads. The existing ones will run the task.
            if not self._count:
                raise
            return False
        self._count += 1
        return True

    def _run(self, work: Callable[[], None] | None) -> None:
        idle_thread = _IdleThread()
        while work is not None:
            try:
                work()
            except BaseException:
                # Any exception: the pool would never replace a thread that it ended.
                _log.exception("Unhandled exception in a pool thread")
            work = None  # Otherwise its references would live until the next task.
            work = self._next(idle_thread)

    def _next(self, idle_thread: _IdleThread) -> Callable[[], None] | None:
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            if self._is_shut_down:
                return None
            idle_thread.work = None
            self._idle.append(idle_thread)
        idle_thread.wake_lock.acquire()
        return idle_thread.work


class _IdleThread:
    """An idle thread.

    :ivar wake_lock: held while the thread is idle; released by the caller that removes it from the stack.
    """

    __slots__ = ("wake_lock", "work")

    def __init__(self) -> None:
        self.wake_lock = threading.Lock()
        self.wake_lock.acquire()
        self.work: Callable[[], None] | None = None
