"""Sets a worker process's limits for descriptors and memory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource

#: Each stream needs two descriptors. The usual limit of 1024 exists for programs that use select().
DESCRIPTOR_LIMIT = 65536

# malloc.h; mallopt(3).
_M_ARENA_MAX = -8


def raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit, but at most to ``DESCRIPTOR_LIMIT``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = DESCRIPTOR_LIMIT if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTOR_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def preallocate_descriptor_table(count: int) -> None:
    """Make the kernel allocate the descriptor table at its final size, before there are threads.

    The table grows by doubling, and in a process with several threads the call that makes it grow waits for an RCU
    grace period: 10 to 30 ms at the 64th descriptor, the 128th and so on, during which the event loop is stalled.

    :param count: number of descriptors, 8 bytes each; the soft limit, if that is lower.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = count - 1 if soft == resource.RLIM_INFINITY else min(count, soft) - 1
    with contextlib.suppress(OSError), open(os.devnull, "rb") as any_file:  # The descriptor may be in use.
        os.close(fcntl.fcntl(any_file, fcntl.F_DUPFD_CLOEXEC, last))


def share_heap() -> None:
    """Make all threads allocate from one heap: an arena per thread would keep the memory of its largest request."""
    with contextlib.suppress(AttributeError):  # Not every C library has mallopt.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
