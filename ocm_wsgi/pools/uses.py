"""What is left of each account, as choosing needs it: from what upstream last reported, in any process."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from ocm_wsgi.accounting.ledger import Ledger, RateLimitsSnapshot
from ocm_wsgi.config import AccountConfig
from ocm_wsgi.errors import StateError
from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.protocol.responses.rate_limits import RateLimitWindow
from ocm_wsgi.quota.choosing import AccountUse, WindowUse, plan_weight

_log = logging.getLogger(__name__)

#: How long a process relies on what it has read from the database, in seconds: others write there about once a second.
CACHE_SECONDS = 1.0


class InFlight:
    """The turns in progress of this process, by account. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def begin(self, credential: str) -> Callable[[], None]:
        """Count a turn. Return a function that ends it; calling that again does nothing."""
        with self._lock:
            self._counts[credential] += 1
        remaining = [credential]

        def end() -> None:
            with suppress(IndexError):
                tag = remaining.pop()
                with self._lock:
                    self._counts[tag] -= 1

        return end

    def count(self, credential: str) -> int:
        """Return how many turns are in progress."""
        return self._counts[credential]


class AccountUses:
    """What is left of each account. Safe to create before a fork and to share between threads.

    :param accounts: of the configuration, with their caps.
    :param plan_of: returns the plan of an account by its credential, or ``None``.
    :param clock: returns Unix seconds.
    :param monotonic: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        accounts: Iterable[AccountConfig],
        ledger: Ledger,
        blocks: Blocks,
        plan_of: Callable[[str], str | None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._unknown = {account.tag: _unknown(account) for account in accounts}
        self._ledger = ledger
        self._blocks = blocks
        self._plan_of = plan_of
        self._monotonic = monotonic
        self.in_flight = InFlight()
        self._read_at: float | None = None
        self._stored: Mapping[str, RateLimitsSnapshot | None] = {}
        self._plans: Mapping[str, str | None] = {}
        self._cached: dict[str, tuple[object, AccountUse]] = {}

    def of(self, tags: Iterable[str], *, is_cached: bool = False) -> list[AccountUse]:
        """Return what is left of accounts, in the same order. Never raises.

        :param is_cached: do not query the database, whatever the age of what was read.
        """
        if not is_cached:
            self._refresh()
        now, blocks = self._clock(), self._blocks.known() if is_cached else self._blocks.all()
        uses = []
        for tag in tags:
            use, block, count = self._use(tag), blocks.get(tag), self.in_flight.count(tag)
            if block is not None or count:
                use = replace(use, blocked_until=0.0 if block is None else block.blocked_until(now), in_flight=count)
            uses.append(use)
        return uses

    def _refresh(self) -> None:
        now = self._monotonic()
        if self._read_at is not None and now - self._read_at < CACHE_SECONDS:
            return
        self._read_at = now
        try:
            self._stored = {tag: self._ledger.rate_limits(tag) for tag in self._unknown}
            self._plans = {tag: self._plan_of(tag) for tag in self._unknown}
        except StateError as exc:
            _log.warning("Cannot read how much of the accounts is used: %s", exc.detail or exc)

    def _use(self, tag: str) -> AccountUse:
        stored, noted = self._stored.get(tag), self._ledger.noted_rate_limits(tag)
        newest = noted if stored is None or (noted is not None and noted.at > stored.at) else stored
        version = (newest, self._plans.get(tag))
        cached = self._cached.get(tag)
        if cached is None or cached[0] != version:
            cached = self._cached[tag] = version, self._computed(tag, newest)
        return cached[1]

    def _computed(self, tag: str, snapshot: RateLimitsSnapshot | None) -> AccountUse:
        limits = None if snapshot is None else snapshot.limits
        plan = (limits and limits.plan_type) or self._plans.get(tag)
        own = None if limits is None else limits.own
        return replace(
            self._unknown[tag],
            weight=plan_weight(plan),
            short=None if own is None else _window(own.primary),
            week=None if own is None else _window(own.secondary),
        )


def _unknown(account: AccountConfig) -> AccountUse:
    return AccountUse(
        account.tag,
        cap_5h=100 if account.cap_5h is None else account.cap_5h,
        cap_weekly=100 if account.cap_weekly is None else account.cap_weekly,
    )


def _window(window: RateLimitWindow | None) -> WindowUse | None:
    return None if window is None else WindowUse(window.used_percent, window.reset_at)
