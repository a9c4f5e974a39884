"""The event loop: dispatches socket events, and checks deadlines twice a second."""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

_log = logging.getLogger(__name__)

#: How often deadlines are checked.
TICK_SECONDS = 0.5
#: How long a batched callback waits for others, at most.
BATCH_SECONDS = 0.1
#: How many of them run without looking at the sockets in between: about a millisecond's worth.
BATCH_SIZE = 50
#: Deferred callbacks that run in one pass. Each may take as long as dozens of events, which must not wait for them all.
DEFERRED_PER_PASS = 16


class HasDeadline(Protocol):
    """Something with a deadline."""

    def check(self, now: float) -> None:
        """Act if the deadline has passed; ``now`` is a reading of the monotonic clock."""


class Loop:
    """An epoll loop for one thread, in the process that made it.

    :ivar now: the monotonic clock, as of the last events.
    """

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._deadlines: set[HasDeadline] = set()
        self._tick_at = self.now + TICK_SECONDS
        self._batch: list[Callable[[], None]] = []
        self._batch_at = inf
        self._end_pass: Callable[[float], float] = lambda _now: inf
        self._end_pass_at = inf
        self._is_interrupted = False
        self._deferred: deque[Callable[[], None]] = deque()
        self._is_woken = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wake_fd, select.EPOLLIN, self._run_deferred)

    def defer(self, callback: Callable[[], None]) -> None:
        """Call something soon in the loop's thread; may be used from any thread until the process ends."""
        self._deferred.append(callback)
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    def watch(self, fd: int, mask: int, on_ready: Callable[[int], None]) -> None:
        """Call ``on_ready`` with the events in ``mask`` that occur, from now on; replaces an earlier mask."""
        if self._masks.get(fd) == mask:
            return
        if fd in self._masks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._masks[fd] = mask
        self._handlers[fd] = on_ready

    def rearm(self, fd: int) -> None:
        """Re-arm: report current readiness even if the edge was already delivered. Does nothing for an unwatched fd."""
        mask = self._masks.get(fd)
        if mask is not None:
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching, if it is watched. Call this before closing: the descriptor may soon be reused."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
            try:  # noqa: SIM105 - a context manager takes longer than this
                self._epoll.unregister(fd)
            except OSError:
                pass  # It is closed already.

    def add(self, timed: HasDeadline) -> None:
        """Check a deadline at each tick."""
        self._deadlines.add(timed)

    def discard(self, timed: HasDeadline) -> None:
        """Stop checking a deadline."""
        self._deadlines.discard(timed)

    def batch(self, callback: Callable[[], None]) -> None:
        """Call something within ``BATCH_SECONDS``, after others of its kind; for what no client waits for.

        Code that runs once in a while finds the processor's caches cold, and takes several times as long as in a row.
        """
        if not self._batch:
            self._batch_at = self.now + BATCH_SECONDS
        self._batch.append(callback)

    def run_batch(self) -> None:
        """Call all that is batched now."""
        while self._batch:
            self._run_some_of_batch()

    def _run_some_of_batch(self) -> None:
        some, self._batch = self._batch[:BATCH_SIZE], self._batch[BATCH_SIZE:]
        if not self._batch:
            self._batch_at = inf
        for callback in some:
            try:
                callback()
            except Exception:
                # A bug: the other callbacks must run nevertheless.
                _log.exception("Unhandled exception in a batched callback")

    def at_pass_end(self, callback: Callable[[float], float]) -> None:
        """Call something after each pass, when all events that were ready have been dispatched.

        :param callback: gets ``now``, and returns when to call it again, even if nothing happens until then.
        """
        self._end_pass = callback

    def interrupt(self, _mask: int = 0) -> None:
        """Make :meth:`run` return after the current events."""
        self._is_interrupted = True

    def run(self, timeout: float) -> None:
        """Dispatch events for ``timeout`` seconds, or until interrupted."""
        self.now = time.monotonic()
        until = self.now + timeout
        self._is_interrupted = False
        handlers = self._handlers
        while not self._is_interrupted:
            # Some milliseconds too long, if the last events took so long: nothing is due that precisely.
            wait = min(until, self._tick_at, self._batch_at, self._end_pass_at) - self.now
            ready = self._epoll.poll(wait if wait > 0 else 0.0)
            self.now = time.monotonic()
            for fd, mask in ready:
                # An earlier handler may have stopped watching this one.
                on_ready = handlers.get(fd)
                if on_ready is not None:
                    try:
                        on_ready(mask)
                    except Exception:
                        # A bug: it must not end the others, nor be reported again immediately.
                        _log.exception("Unhandled exception in a connection's event handler")
                        self.forget(fd)
            if self.now >= self._batch_at:
                self._run_some_of_batch()
            if self.now >= self._tick_at:
                self._tick()
            self._end_pass_at = self._end_pass(self.now)
            if self.now >= until:
                break

    def close(self) -> None:
        """Close the descriptors. Nothing may be deferred afterwards."""
        self._epoll.close()
        os.close(self._wake_fd)

    def _run_deferred(self, _mask: int) -> None:
        os.eventfd_read(self._wake_fd)
        # Before the queue is read: a callback deferred from here on must wake the loop again.
        self._is_woken = False
        # Callbacks that these defer in turn run after the next socket events.
        for _ in range(min(len(self._deferred), DEFERRED_PER_PASS)):
            try:
                self._deferred.popleft()()
            except Exception:
                # A bug: the other callbacks must run nevertheless.
                _log.exception("Unhandled exception in a deferred callback")
        if self._deferred and not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _tick(self) -> None:
        self._tick_at = self.now + TICK_SECONDS
        for timed in list(self._deadlines):
            timed.check(self.now)
