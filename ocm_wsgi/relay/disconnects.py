"""Noticing that a client has gone while its request is being worked on.

A WSGI server notices it at the second write after the fact, and not at all while upstream is silent. One thread a
process waits on all clients' sockets at once instead, for their end only; it reads nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from types import TracebackType


class Watch:
    """One watched socket. A context manager: leaving it ends the watch."""

    def __init__(self, monitor: DisconnectMonitor, fd: int, on_disconnect: Callable[[], None]) -> None:
        self._monitor = monitor
        self._fd = fd
        self.on_disconnect = on_disconnect

    def cancel(self) -> None:
        """Stop watching. To be called before the socket is closed: its number may soon be another's."""
        self._monitor.forget(self._fd, self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.cancel()


class DisconnectMonitor:
    """Watches client sockets; calls back within milliseconds of a hang-up, from its own thread.

    A client that half-closes its side counts as gone, as it does for nginx. Safe under fork: each process that uses
    it has its own thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._watches: dict[int, Watch] = {}
        self._epoll: select.epoll | None = None

    def watch(self, fd: int, on_disconnect: Callable[[], None]) -> Watch:
        """Call ``on_disconnect`` once when the peer of ``fd`` goes away.

        :param on_disconnect: must be quick and must not raise.
        """
        watch = Watch(self, fd, on_disconnect)
        with self._lock:
            epoll = self._started()
            self._watches[fd] = watch
            epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return watch

    def forget(self, fd: int, watch: Watch) -> None:
        """End a watch; nothing happens if it has ended."""
        with self._lock:
            if self._watches.get(fd) is watch and self._epoll is not None:
                del self._watches[fd]
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fd)

    def _started(self) -> select.epoll:
        if self._epoll is None or self._pid != os.getpid():
            # An epoll set made before a fork is shared with the parent: its thread is not.
            self._watches = {}
            self._epoll = select.epoll()
            self._pid = os.getpid()
            threading.Thread(target=self._run, args=(self._epoll,), name="ocm-disconnects", daemon=True).start()
        return self._epoll

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for fd, _ in epoll.poll():
                with self._lock:
                    watch = self._watches.get(fd)
                if watch is not None:
                    watch.on_disconnect()
