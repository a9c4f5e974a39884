"""Lets a server know while the thread of a request waits for upstream, and does not need the processor.

At all other times a thread competes with the others of its process for the interpreter. A server may let few of them do
so at the same time, while hundreds wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

_thread = threading.local()


def notify_waiting(callback: Callable[[bool], None] | None) -> None:
    """Call something with true when this thread begins to wait for upstream, and with false when it has waited.

    For a server, before it handles a request; ``None`` afterwards.
    """
    _thread.callback = callback


class WaitsForUpstream:
    """A context in which this thread waits for upstream. Does nothing under a server that need not know."""

    def __enter__(self) -> None:
        _notify(True)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _notify(False)


def _notify(is_waiting: bool) -> None:
    callback: Callable[[bool], None] | None = getattr(_thread, "callback", None)
    if callback is not None:
        callback(is_waiting)
