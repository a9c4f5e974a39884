"""The event loop: hears when sockets are ready, and asks twice a second whose time is over."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

#: How often deadlines are looked at.
TICK_SECONDS = 0.5


class HasDeadline(Protocol):
    """Something that is under way and must not be so for ever."""

    def check(self, now: float) -> None:
        """Look at the deadline; ``now`` is a reading of the monotonic clock."""


class Loop:
    """For one thread, in the process that made it.

    :ivar now: the monotonic clock, as of the last time that something was ready.
    """

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._under_way: set[HasDeadline] = set()
        self._tick_at = self.now + TICK_SECONDS
        self._is_interrupted = False
        self._deferred: deque[Callable[[], None]] = deque()
        self._is_woken = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wake_fd, select.EPOLLIN, self._run_deferred)

    def defer(self, callback: Callable[[], None]) -> None:
        """Have something called soon in the loop's thread; callable from any thread, to the very end."""
        self._deferred.append(callback)
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    def watch(self, fd: int, mask: int, on_ready: Callable[[int], None]) -> None:
        """See ``peer.Poll``."""
        if self._masks.get(fd) == mask:
            return
        if fd in self._masks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._masks[fd] = mask
        self._handlers[fd] = on_ready

    def rearm(self, fd: int) -> None:
        """See ``peer.Poll``."""
        mask = self._masks.get(fd)
        if mask is not None:
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """See ``peer.Poll``. To be called before the descriptor is closed: its number may soon be another's."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def add(self, timed: HasDeadline) -> None:
        """Have deadlines looked at."""
        self._under_way.add(timed)

    def discard(self, timed: HasDeadline) -> None:
        """What was under way is over."""
        self._under_way.discard(timed)

    def interrupt(self, _mask: int = 0) -> None:
        """Let :meth:`run` return when what is ready now has been served."""
        self._is_interrupted = True

    def run(self, timeout: float) -> None:
        """Serve for so many seconds, or until interrupted."""
        until = time.monotonic() + timeout
        self._is_interrupted = False
        handlers = self._handlers
        while not self._is_interrupted:
            wait = min(until, self._tick_at) - time.monotonic()
            ready = self._epoll.poll(max(wait, 0.0))
            self.now = time.monotonic()
            for fd, mask in ready:
                # Serving one may have ended the interest in another.
                on_ready = handlers.get(fd)
                if on_ready is not None:
                    try:
                        on_ready(mask)
                    except Exception:
                        # A defect: it must not end the others, nor come again at once.
                        logger.exception("A connection could not be served")
                        self.forget(fd)
            if self.now >= self._tick_at:
                self._tick()
            if self.now >= until:
                break

    def close(self) -> None:
        """Give the descriptors back. Nothing may be deferred any more."""
        self._epoll.close()
        os.close(self._wake_fd)

    def _run_deferred(self, _mask: int) -> None:
        os.eventfd_read(self._wake_fd)
        # Before the queue is looked at, or what comes now would wait for the next wake-up.
        self._is_woken = False
        # What these defer in turn waits until sockets have been served.
        for _ in range(len(self._deferred)):
            try:
                self._deferred.popleft()()
            except Exception:
                # A defect: the others must be called all the same.
                logger.exception("What was deferred failed")

    def _tick(self) -> None:
        self._tick_at = self.now + TICK_SECONDS
        for timed in list(self._under_way):
            timed.check(self.now)
