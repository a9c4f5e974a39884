"""A wall clock for the service that can jump while the service is running.

It replaces Python's clock functions. ``libfaketime`` works one level below and breaks ``time.sleep`` in Python 3.11 and
newer, which sleeps until a point in time on the monotonic clock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOUR = 3600
DAY = 24 * HOUR

# Python imports a module of this name at start-up, including in every process that the service starts.
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
    """The wall clock of a service that was started with :attr:`environment`. The monotonic clock is unaffected."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(path=str(folder / "ahead")))
        self.jump(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables to start the service with."""
        return {"PYTHONPATH": str(self._folder)}

    def jump(self, seconds: int) -> None:
        """Set the clock this many seconds ahead of the true time, or behind it if negative."""
        fresh = self._folder / "ahead.new"
        fresh.write_text(str(seconds))
        os.replace(fresh, self._folder / "ahead")
