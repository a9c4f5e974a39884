"""Values that each process makes for itself, such as threads and connections, which do not survive a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One value a process, made at its first use there. Thread-safe and safe to create before a fork.

    There is no lock that a fork could leave held: ``dict.setdefault`` is atomic. Two threads may therefore both call
    ``make`` at the first use, and one of the values is dropped unused.

    :param make: makes a value. It must have no effect that needs undoing when the value is dropped.
    :param on_inherited: called, before this process's value is made, with each value inherited through a fork, which
        is then dropped. Without it they are kept, unused: freeing one might act on what the parent still uses.
    """

    def __init__(self, make: Callable[[], T], *, on_inherited: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._on_inherited = on_inherited
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's value; make it if there is none."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            self._release_inherited(pid)
            return self._values.setdefault(pid, self._make())

    def pop(self) -> T | None:
        """Remove this process's value and return it; ``None`` if there is none. The next use makes a new one."""
        return self._values.pop(os.getpid(), None)

    def _release_inherited(self, pid: int) -> None:
        if self._on_inherited is None:
            return
        for other in [other for other in list(self._values) if other != pid]:
            inherited = self._values.pop(other, None)
            if inherited is not None:
                self._on_inherited(inherited)
