"""Which requests and turns are in progress, in all worker processes. No Flask.

Each process writes its own to a small file, when they change and while there are any; a reader collects the files
that are fresh. No request waits for that: the files lag by up to a second, and those of a killed process expire.
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

from ocm_wsgi.storage.files import make_private_folder, replace_file
from ocm_wsgi.storage.per_process import PerProcess

#: How often a process writes its file, at most, in seconds.
WRITE_INTERVAL_SECONDS = 1.0
#: How often it does, at least, while a request is in progress, in seconds.
HEARTBEAT_SECONDS = 5.0
#: A file that was not written for this long belongs to a process that has ended.
STALE_SECONDS = 3 * HEARTBEAT_SECONDS


class TrackedRequest(Protocol):
    """A request, or a turn of a WebSocket, that has started. ``started`` is a reading of the monotonic clock."""

    @property
    def user(self) -> str:
        """The user's name; ``""`` until it is known."""

    @property
    def path(self) -> str:
        """The path, without the query."""

    @property
    def model(self) -> str:
        """The requested model; ``""`` until it is known, and if there is none."""

    @property
    def started(self) -> float:
        """When it started."""


#: Starts tracking a request. Call what it returns when the request has ended.
Tracker = Callable[[TrackedRequest], Callable[[], None]]


def untracked(_request: TrackedRequest) -> Callable[[], None]:
    """Track nothing."""
    return lambda: None


@dataclass(frozen=True)
class TrackedTurn:
    """A turn in progress on a WebSocket. The WebSocket itself is not tracked between its turns."""

    user: str
    path: str
    model: str
    started: float


@dataclass(frozen=True)
class LiveRequest:
    """One request or turn in progress.

    :ivar started_at: Unix seconds.
    """

    user: str
    path: str
    started_at: float
    model: str = ""


class LiveRequests:
    """The requests in progress. Safe to make before a fork and to share between threads.

    :param folder: created (0700) when missing.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        # After a fork the parent's requests stay with the parent's tracker.
        self._tracker = PerProcess(lambda: _ProcessTracker(folder / f"{os.getpid()}.json", clock))

    def track(self, request: TrackedRequest) -> Callable[[], None]:
        """Start tracking a request.

        :return: to be called when the request has ended.
        """
        return self._tracker.get().track(request)

    def all(self) -> list[LiveRequest]:
        """Return those in progress, the longest-running first."""
        found: list[LiveRequest] = []
        for path in self._folder.glob("*.json"):
            # During a reload, a worker of another release may write another format.
            with contextlib.suppress(OSError, ValueError, TypeError):
                if self._clock() - path.stat().st_mtime < STALE_SECONDS:
                    found += [LiveRequest(*entry) for entry in json.loads(path.read_text())]
                else:
                    path.unlink()
        return sorted(found, key=lambda request: request.started_at)


class _ProcessTracker:
    """The requests in progress in one process, and the thread that writes them to its file."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._requests: dict[int, TrackedRequest] = {}
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def track(self, request: TrackedRequest) -> Callable[[], None]:
        if self._thread is None:
            self._start()
        self._requests[id(request)] = request
        self._note_change()

        def end() -> None:
            self._requests.pop(id(request), None)
            self._note_change()

        return end

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_writing, name="ocm-live", daemon=True)
                self._thread.start()

    def _note_change(self) -> None:
        # Setting it takes ten times as long, and it is set most of the time when there are many requests. The writer
        # clears it before it reads the requests, so it misses none.
        if not self._changed.is_set():
            self._changed.set()

    def _keep_writing(self) -> None:
        pause = threading.Event()
        while True:
            self._changed.wait(HEARTBEAT_SECONDS if self._requests else None)
            self._changed.clear()
            with contextlib.suppress(OSError):  # The file is for display only; no request may fail because of it.
                self._write()
            pause.wait(WRITE_INTERVAL_SECONDS)

    def _write(self) -> None:
        requests = list(self._requests.values())
        if not requests:
            self._path.unlink(missing_ok=True)
            return
        offset = self._clock() - time.monotonic()
        entries = [(request.user, request.path, request.started + offset, request.model) for request in requests]
        make_private_folder(self._path.parent)
        content = json.dumps(entries).encode()
        # Not synced: the file means nothing after a restart.
        replace_file(self._path, content, temporary=self._path.with_suffix(".new"), sync=False)
