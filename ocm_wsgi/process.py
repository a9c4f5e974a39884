"""What a worker asks of the system for its own process."""

from __future__ import annotations

import contextlib
import ctypes
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


def share_heap() -> None:
    """Have all threads allocate from one heap: of its own each would keep what its largest request took."""
    with contextlib.suppress(AttributeError):  # Not every C library has it.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
