"""Which requests and turns are under way, in all worker processes. No Flask.

Each process writes its own into a small file, when they change and while there are any; who looks takes those that
are fresh. Nobody waits for that: it is behind by a second, and what a killed process left there fades by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ocm_wsgi.storage.files import replace_file
from ocm_wsgi.storage.per_process import PerProcess

#: How often a process writes, at most, and at least while something is under way, in seconds.
PAUSE_SECONDS = 1.0
BEAT_SECONDS = 5.0
#: A file that was not written for so long is one of a process that has ended.
STALE_SECONDS = 3 * BEAT_SECONDS


class UnderWay(Protocol):
    """A request, or a turn of a WebSocket, that has begun. ``started`` is a reading of the monotonic clock."""

    @property
    def user(self) -> str:
        """Who asks; ``""`` until that is known."""

    @property
    def path(self) -> str:
        """Without the query."""

    @property
    def model(self) -> str:
        """What is asked for; ``""`` until that is known, and where there is none."""

    @property
    def started(self) -> float:
        """When it began."""


#: Takes something up. What is returned is called when that has ended.
TakeUp = Callable[[UnderWay], Callable[[], None]]


def nobody_looks(_under_way: UnderWay) -> Callable[[], None]:
    """Take up nothing."""
    return lambda: None


@dataclass(frozen=True)
class TurnOfSocket:
    """A turn under way on a WebSocket, which is itself under way only as long as it has one."""

    user: str
    path: str
    model: str
    started: float


@dataclass(frozen=True)
class LiveRequest:
    """One request or turn under way.

    :ivar started_at: Unix seconds.
    """

    user: str
    path: str
    started_at: float
    model: str = ""


class LiveRequests:
    """The requests under way. Safe to make before a fork and to share between threads.

    :param folder: made (0700) when missing.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        # What a parent has under way is none of ours.
        self._own = PerProcess(lambda: _Own(folder / f"{os.getpid()}.json", clock))

    def begin(self, request: UnderWay) -> Callable[[], None]:
        """Take a request up. What is returned is called when it has ended."""
        return self._own.get().begin(request)

    def all(self) -> list[LiveRequest]:
        """Give those under way, the longest first."""
        found: list[LiveRequest] = []
        for path in self._folder.glob("*.json"):
            # A worker of another release, which may be there during a reload, may write something else.
            with contextlib.suppress(OSError, ValueError, TypeError):
                if self._clock() - path.stat().st_mtime < STALE_SECONDS:
                    found += [LiveRequest(*entry) for entry in json.loads(path.read_text())]
                else:
                    path.unlink()
        return sorted(found, key=lambda request: request.started_at)


class _Own:
    """What one process has under way, and the thread that writes it down."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._requests: dict[int, UnderWay] = {}
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, request: UnderWay) -> Callable[[], None]:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_writing, name="ocm-live", daemon=True)
                self._thread.start()
        self._requests[id(request)] = request
        self._changed.set()

        def end() -> None:
            self._requests.pop(id(request), None)
            self._changed.set()

        return end

    def _keep_writing(self) -> None:
        pause = threading.Event()
        while True:
            self._changed.wait(BEAT_SECONDS if self._requests else None)
            self._changed.clear()
            with contextlib.suppress(OSError):  # It is shown, and no more: nothing may fail for it.
                self._write()
            pause.wait(PAUSE_SECONDS)

    def _write(self) -> None:
        requests = list(self._requests.values())
        if not requests:
            self._path.unlink(missing_ok=True)
            return
        offset = self._clock() - time.monotonic()
        entries = [(request.user, request.path, request.started + offset, request.model) for request in requests]
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = json.dumps(entries).encode()
        # Not synced: it means nothing after a restart.
        replace_file(self._path, content, temporary=self._path.with_suffix(".new"), mode=0o666, sync=False)
