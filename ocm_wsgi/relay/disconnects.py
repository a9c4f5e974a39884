"""Detects that a client has disconnected while a thread works on its request.

A WSGI server notices a disconnect at the second write after it, and not at all while upstream is silent. Therefore one
thread per process polls all clients' sockets for their end; it reads nothing.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable

from ocm_wsgi.storage.per_process import PerProcess


class Watch:
    """One watched socket."""

    def __init__(self, poller: _Poller, fd: int, on_disconnect: Callable[[], None]) -> None:
        self._poller = poller
        self._fd = fd
        self.on_disconnect = on_disconnect

    def cancel(self) -> None:
        """Stop watching. Call this before the socket is closed: its descriptor may soon be reused."""
        self._poller.forget(self._fd, self)


class DisconnectMonitor:
    """Watches client sockets, and calls back from its own thread within milliseconds of a disconnect.

    A client that half-closes its side counts as disconnected, as it does for nginx. Safe under fork: each process that
    uses the monitor has its own thread.
    """

    def __init__(self) -> None:
        # After a fork, the parent's epoll set is shared, but its thread is not.
        self._pollers = PerProcess(_Poller)

    def watch(self, fd: int, on_disconnect: Callable[[], None]) -> Watch:
        """Call ``on_disconnect`` once when the peer of ``fd`` disconnects.

        :param on_disconnect: must be quick and must not raise.
        """
        return self._pollers.get().watch(fd, on_disconnect)


class _Poller:
    """The epoll set of one process, and the thread that polls it. Both are created at the first watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[int, Watch] = {}
        self._epoll: select.epoll | None = None

    def watch(self, fd: int, on_disconnect: Callable[[], None]) -> Watch:
        watch = Watch(self, fd, on_disconnect)
        with self._lock:
            epoll = self._started()
            self._watches[fd] = watch
            epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return watch

    def forget(self, fd: int, watch: Watch) -> None:
        """End a watch; do nothing if it has ended."""
        with self._lock:
            if self._watches.get(fd) is watch and self._epoll is not None:
                del self._watches[fd]
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fd)

    def _started(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            threading.Thread(target=self._run, args=(self._epoll,), name="ocm-disconnects", daemon=True).start()
        return self._epoll

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for fd, _ in epoll.poll():
                with self._lock:
                    watch = self._watches.get(fd)
                if watch is not None:
                    watch.on_disconnect()
