"""Adapters that let gunicorn's selector and method queue use the worker's event loop."""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.workers import gthread

from ocm_wsgi.relay.loop import Loop


class Poller:
    """Replaces gunicorn's selector, so that there is one epoll set instead of two nested ones."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._descriptors: dict[Any, int] = {}

    def register(self, source: Any, _events: int, on_readable: Callable[[Any], None]) -> None:
        """Call back with the file object whenever it is readable."""
        fd = self._descriptors[source] = source if isinstance(source, int) else source.fileno()
        self._loop.watch(fd, select.EPOLLIN, lambda _mask: on_readable(source))

    def unregister(self, source: Any) -> None:
        """Stop watching.

        :raises KeyError: the file object is not registered.
        """
        self._loop.forget(self._descriptors.pop(source))

    def close(self) -> None:
        """Do nothing: the worker owns the loop."""


class MethodQueue(gthread.PollableMethodQueue):  # type: ignore[misc]  # gunicorn has no types
    """Replaces gunicorn's queue of calls for the main thread: one system call for a wake-up instead of three."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def defer(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something in the main thread; other threads use this until the process ends."""
        self._loop.defer(partial(callback, *args))

    def close(self) -> None:
        """Leave it open: the process ends soon, and a late thread might write into a reused descriptor."""
