"""Starting and ending processes of our own, and what the kernel knows of them: CPU time and memory. Linux only."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

_PROC = Path("/proc")
_ANONYMOUS = re.compile(r"^Pss_Anon: +(\d+) kB$", re.MULTILINE)
_END_TIMEOUT_SECONDS = 5.0


def start(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach: it is ours to end, in its turn.

    It inherits the mask. multiprocessing's helper, which the first process brings with it, would clear it half-way.
    """
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end(process: BaseProcess) -> None:
    """End a process and wait until it is gone."""
    process.terminate()
    process.join(_END_TIMEOUT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


class ProcessTree:
    """Processes and all that they have started."""

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._cpu_ns: dict[int, int] = {}

    def cpu_seconds(self) -> float:
        """Return the CPU time taken so far by all threads; that of a process which has ended, as last seen."""
        for pid in self.members():
            try:
                self._cpu_ns[pid] = time.clock_gettime_ns(_cpu_clock(pid))
            except OSError:
                continue  # It ended just now.
        return sum(self._cpu_ns.values()) / 1e9

    def memory_bytes(self) -> int:
        """Return the proportional set size of anonymous memory: what processes share is counted once.

        Mapped files are left out: their part of a process changes with each other process that maps them too.
        """
        return 1024 * sum(_anonymous_kib(pid) for pid in self.members())

    def has_ended(self) -> bool:
        """Return whether a root, which is a child of ours, has ended; who started it can still wait for it."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return any(os.waitid(os.P_PID, root, options) is not None for root in self._roots)

    def members(self) -> Sequence[int]:
        """Return the ids of those that run."""
        children: dict[int, list[int]] = {}
        for stat in _PROC.glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(stat.parent.name))
        members = list(self._roots)
        for pid in members:
            members.extend(children.get(pid, ()))
        return members


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU time, in nanoseconds where ``/proc/PID/stat`` has ticks of 10 ms.

    What ``clock_getcpuclockid(3)`` does in glibc; Python has only the one for threads.
    """
    scheduler_clock = 2
    return (~pid << 3) | scheduler_clock


def _anonymous_kib(pid: int) -> int:
    try:
        found = _ANONYMOUS.search((_PROC / str(pid) / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0
