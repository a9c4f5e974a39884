"""Starts and stops processes, and reads their CPU time and memory from the kernel. Linux only."""

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
    """Start a process that does not receive Ctrl-C, so that this process can stop it.

    It inherits the signal mask. multiprocessing's resource tracker, which the first process starts, would clear the
    mask in between, and so is started first.
    """
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end(process: BaseProcess) -> None:
    """Stop a process and wait for it."""
    process.terminate()
    process.join(_END_TIMEOUT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


class ProcessTree:
    """Processes and all their descendants."""

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._cpu_ns: dict[int, int] = {}

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far by all threads, including the last known value of ended processes."""
        for pid in self.members():
            try:
                self._cpu_ns[pid] = time.clock_gettime_ns(_cpu_clock(pid))
            except OSError:
                continue  # The process has just ended.
        return sum(self._cpu_ns.values()) / 1e9

    def memory_bytes(self) -> int:
        """Return the proportional set size of anonymous memory, which counts shared memory once.

        Excludes mapped files, whose share depends on which other processes map them.
        """
        return 1024 * sum(_anonymous_kib(pid) for pid in self.members())

    def has_ended(self) -> bool:
        """Return whether a root, a child of this process, has ended. It can still be waited for."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return any(os.waitid(os.P_PID, root, options) is not None for root in self._roots)

    def members(self) -> Sequence[int]:
        """Return the ids of the running processes."""
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
    """Return a process's CPU-time clock, in nanoseconds, while ``/proc/PID/stat`` has ticks of 10 ms.

    Like glibc's ``clock_getcpuclockid(3)``; Python has only the function for threads.
    """
    scheduler_clock = 2
    return (~pid << 3) | scheduler_clock


def _anonymous_kib(pid: int) -> int:
    try:
        found = _ANONYMOUS.search((_PROC / str(pid) / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0
