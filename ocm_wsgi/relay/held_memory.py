"""Bounds the memory of messages that clients have not completed, or that upstream has not accepted yet."""

from __future__ import annotations

from collections import defaultdict

#: How much all WebSockets of a user may hold in one worker, in bytes: two of the longest messages.
USER_LIMIT_BYTES = 128 * 1024 * 1024
#: How much all WebSockets of a worker may hold, in bytes.
WORKER_LIMIT_BYTES = 512 * 1024 * 1024
#: How much of each WebSocket does not count, in bytes: most messages are shorter.
FREE_BYTES = 256 * 1024


class HeldMemory:
    """What the WebSockets of one worker hold. For one thread.

    :param user_limit: in bytes.
    :param worker_limit: in bytes.
    :ivar total: what counts of all that is held, in bytes.
    """

    def __init__(self, *, user_limit: int = USER_LIMIT_BYTES, worker_limit: int = WORKER_LIMIT_BYTES) -> None:
        self._user_limit = user_limit
        self._worker_limit = worker_limit
        self._by_user: defaultdict[str, int] = defaultdict(int)
        self.total = 0

    def share(self, user: str) -> HeldShare:
        """Return the share of a user's new WebSocket."""
        return HeldShare(self, user)

    def change(self, user: str, size: int) -> bool:
        """Add to what a user holds, or subtract. Return whether all is within the limits."""
        self.total += size
        held = self._by_user[user] = self._by_user[user] + size
        if not held:
            del self._by_user[user]
        return size <= 0 or (held <= self._user_limit and self.total <= self._worker_limit)


class HeldShare:
    """What one WebSocket holds."""

    __slots__ = ("_counted", "_memory", "_user")

    def __init__(self, memory: HeldMemory, user: str) -> None:
        self._memory = memory
        self._user = user
        self._counted = 0

    def hold(self, size: int) -> bool:
        """Note how much the WebSocket holds now, in bytes. Return false if that has become too much."""
        counted = max(size - FREE_BYTES, 0)
        change, self._counted = counted - self._counted, counted
        return not change or self._memory.change(self._user, change)
