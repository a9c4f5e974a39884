"""Threads that wait for work on a stack: each piece of work wakes one thread, that which was busy last.

Of the threads of ``concurrent.futures`` each piece of work wakes two, the second in vain: they wait in one queue
(``queue.SimpleQueue``), and whoever has taken something from it hands its lock on to the next. Under the interpreter's
lock that costs some four switches of thread a request, and each request is another thread's. The thread that was busy
last has its stack in the processor's caches, and those that are never needed at once have none in memory.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)


class ThreadPool:
    """Runs what is submitted, in as few threads as that takes; more than ``size`` at once wait for their turn.

    At the interpreter's end what runs is waited for, as with any thread that is no daemon.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._count = 0
        self._idle: list[_Seat] = []
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_shut_down = False

    def submit(self, work: Callable[[], None]) -> None:
        """Have it done. What it raises is logged.

        :raises RuntimeError: the pool was shut down, or not even its first thread can be started.
        """
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool was shut down")
            if self._idle:
                seat = self._idle.pop()
                seat.work = work
                seat.wakes.release()
                return
            if self._count == self._size or not self._has_started_another(work):
                self._waiting.append(work)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have nothing more to do; parameters as of ``concurrent.futures.Executor``.

        :param wait: must be false: the interpreter waits at its end.
        :param cancel_futures: what nobody has begun is dropped.
        """
        with self._lock:
            self._is_shut_down = True
            if cancel_futures:
                self._waiting.clear()
            idle, self._idle = self._idle, []
        for seat in idle:
            seat.wakes.release()

    def _has_started_another(self, work: Callable[[], None]) -> bool:
        thread = threading.Thread(target=self._run, args=(work,), name=f"{self._name}-{self._count}")
        try:
            thread.start()
        except RuntimeError:
            # The system gives no more. Those that there are will come to it.
            if not self._count:
                raise
            return False
        self._count += 1
        return True

    def _run(self, work: Callable[[], None] | None) -> None:
        seat = _Seat()
        while work is not None:
            try:
                work()
            except BaseException:
                # Of whatever kind it is: a thread that ended with it would be missing for good.
                logger.exception("A thread's work failed")
            work = None  # Or what it holds would be held until the next comes.
            work = self._next(seat)

    def _next(self, seat: _Seat) -> Callable[[], None] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._is_shut_down:
                return None
            seat.work = None
            self._idle.append(seat)
        seat.wakes.acquire()
        return seat.work


class _Seat:
    """Where a thread waits.

    :ivar wakes: held while it is idle; whoever took the seat off the stack releases it.
    """

    __slots__ = ("wakes", "work")

    def __init__(self) -> None:
        self.wakes = threading.Lock()
        self.wakes.acquire()
        self.work: Callable[[], None] | None = None
