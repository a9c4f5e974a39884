"""What a worker asks of the system for its own process."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource

#: Connections, two for each stream, are descriptors. The usual limit of 1024 is there for programs that use select().
DESCRIPTOR_LIMIT = 65536

# malloc.h; mallopt(3).
_M_ARENA_MAX = -8


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the hard limit allows, up to ``DESCRIPTOR_LIMIT``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTOR_LIMIT if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTOR_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_room_for_descriptors(count: int) -> None:
    """Have the kernel make its table of descriptors as long as it will become, before there are threads.

    It grows by doubling, and in a process of several threads whoever opens something then waits for a grace period of
    RCU: 10 to 30 ms at the 64th descriptor, the 128th and so on, in which the event loop moves nothing.

    :param count: of descriptors, 8 octets each; fewer where the soft limit is lower.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = count - 1 if soft == resource.RLIM_INFINITY else min(count, soft) - 1
    with contextlib.suppress(OSError), open(os.devnull, "rb") as any_file:  # The last one may be in use.
        os.close(fcntl.fcntl(any_file, fcntl.F_DUPFD_CLOEXEC, last))


def share_heap() -> None:
    """Have all threads allocate from one heap: of its own each would keep what its largest request took."""
    with contextlib.suppress(AttributeError):  # Not every C library has it.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
