"""gunicorn's two ways to wait, by the worker's own loop: one place where all is waited for, and one wake-up."""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.workers import gthread

from ocm_wsgi.relay.loop import Loop


class Poller:
    """In place of gunicorn's selector: as one epoll within another each socket was waited for twice."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._descriptors: dict[Any, int] = {}

    def register(self, waited: Any, _events: int, on_readable: Callable[[Any], None]) -> None:
        """Call with what is waited for, as often as it can be read."""
        fd = self._descriptors[waited] = waited if isinstance(waited, int) else waited.fileno()
        self._loop.watch(fd, select.EPOLLIN, lambda _mask: on_readable(waited))

    def unregister(self, waited: Any) -> None:
        """Wait no longer.

        :raises KeyError: nobody did.
        """
        self._loop.forget(self._descriptors.pop(waited))

    def close(self) -> None:
        """The loop has a life of its own."""


class MethodQueue(gthread.PollableMethodQueue):  # type: ignore[misc]  # gunicorn has no types
    """In place of gunicorn's way to have something called in the main thread: it takes one wake-up and not three."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def defer(self, callback: Callable[..., Any], *args: Any) -> None:
        """As gunicorn's; other threads use it to the very end."""
        self._loop.defer(partial(callback, *args))

    def close(self) -> None:
        """Leave it open: the process ends soon, and what a late thread wrote would be in another's descriptor."""
