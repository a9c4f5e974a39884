"""A wall clock that leaps, for the service alone and while it runs.

It stands where Python code asks for the time. ``libfaketime`` would stand below, and breaks ``time.sleep`` of Python
3.11 and newer, which sleeps up to a moment of the monotonic clock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOUR = 3600
DAY = 24 * HOUR

# Python imports a module of this name when it starts, in every process that the service starts too.
_SITECUSTOMIZE = """
import time

true_time, true_time_ns = time.time, time.time_ns


def ahead():
    with open({path!r}) as file:
        return int(file.read())


time.time = lambda: true_time() + ahead()
time.time_ns = lambda: true_time_ns() + ahead() * 10**9
"""


class WallClock:
    """The wall clock of a service that was started with :attr:`environment`. The monotonic clock is as it is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(path=str(folder / "ahead")))
        self.leap(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What the service is started with."""
        return {"PYTHONPATH": str(self._folder)}

    def leap(self, seconds: int) -> None:
        """Be so many seconds ahead of the true time, or behind it, from now on."""
        fresh = self._folder / "ahead.new"
        fresh.write_text(str(seconds))
        os.replace(fresh, self._folder / "ahead")
