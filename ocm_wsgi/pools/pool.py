"""The pools of accounts, and the choice of an account for a conversation."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ocm_wsgi.errors import CredentialUnavailable, OcmError, PoolUsedUp
from ocm_wsgi.pools.account import UpstreamAccount
from ocm_wsgi.pools.affinity import Affinity
from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.pools.uses import AccountUses
from ocm_wsgi.protocol.responses.pool_fields import figure_fields
from ocm_wsgi.protocol.responses.rate_limits import RateLimits
from ocm_wsgi.quota.choosing import AccountUse, Figures, Strategy, figures, pick, rebalanced, usable, usable_again_at
from ocm_wsgi.users.user import User

_log = logging.getLogger(__name__)

#: The ``Retry-After`` when no account can be used, and it is not known when that changes, in seconds.
RETRY_SECONDS = 30


@dataclass(frozen=True)
class Pool:
    """Several accounts that serve the same users.

    :ivar members: in the order of the configuration.
    :ivar rebalance_threshold: see :func:`~ocm_wsgi.quota.choosing.rebalanced`.
    """

    tag: str
    members: tuple[UpstreamAccount, ...]
    strategy: Strategy
    rebalance_threshold: float = 0.0

    @property
    def tags(self) -> Sequence[str]:
        """The tags of the members."""
        return [member.tag for member in self.members]


class Pools:
    """Chooses accounts. Safe to create before a fork and to share between threads.

    :param first: serves users whom nothing binds to an account or pool; ``None`` if an account does.
    :param note_limits: notes what upstream reports of an account.
    :param clock: returns Unix seconds.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        first: Pool | None,
        uses: AccountUses,
        affinity: Affinity,
        blocks: Blocks,
        note_limits: Callable[[RateLimits, str], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.by_tag = pools
        self._first = first
        self.uses = uses
        self.affinity = affinity
        self.blocks = blocks
        self.note_limits = note_limits
        self.clock = clock

    def of(self, user: User) -> Pool | None:
        """Return the pool that serves a user; ``None`` if an account does."""
        if not self.by_tag:
            return None
        return self._first if user.credential is None else self.by_tag.get(user.credential)

    def choose(self, pool: Pool, key: str | None, excluded: Collection[str] = ()) -> UpstreamAccount | None:
        """Return the account for a request; ``None`` if none may be used.

        :param key: of its conversation, which stays with its account while that may be used; ``None`` for none.
        :param excluded: accounts that cannot serve the request.
        """
        now, uses = self.clock(), self.uses.of(pool.tags)
        found = [use for use in uses if use.tag not in excluded]
        if pool.strategy == "fallback" or key is None:
            return self._member(pool, self._pick(pool, found, now))
        current = self.affinity.get(key)
        use = next((use for use in found if use.tag == current), None)
        if use is not None and use.is_usable(now):
            if pool.strategy != "least-used" or rebalanced(use, found, pool.rebalance_threshold, now) is None:
                return self._member(pool, use)
            _log.info("The conversations of the credential %s move to others of the pool %s", use.tag, pool.tag)
            self.affinity.move_all(pool.tag, use.tag)
        picked = self._pick(pool, found, now)
        if picked is None:
            return None
        candidates = {use.tag for use in usable(found, now)}
        # Another request of the conversation may have been faster.
        others = [use.tag for use in uses if use.tag not in candidates]
        tag = self.affinity.put(key, pool.tag, picked.tag, instead_of=others)
        return next((member for member in pool.members if member.tag == tag), self._member(pool, picked))

    def figures(self, pool: Pool, *, is_cached: bool = False) -> Figures:
        """Return the windows of a pool's accounts as one.

        :param is_cached: do not query the database.
        """
        return figures(self.uses.of(pool.tags, is_cached=is_cached), self.clock())

    def has_another(self, pool: Pool, tag: str, *, is_cached: bool = False) -> bool:
        """Return whether another account than this one may be used now.

        :param is_cached: do not query the database.
        """
        now = self.clock()
        return any(use.is_usable(now) for use in self.uses.of(pool.tags, is_cached=is_cached) if use.tag != tag)

    def is_usable(self, tag: str) -> bool:
        """Return whether an account may be used now."""
        return self.uses.of([tag])[0].is_usable(self.clock())

    def exhausted(self, pool: Pool, *, without: str | None = None) -> OcmError:
        """Return the error for a request when no account may be used.

        :param without: an account that is not blocked, and failed all the same.
        """
        now, uses = self.clock(), [use for use in self.uses.of(pool.tags) if use.tag != without]
        at = usable_again_at(uses, now)
        if at <= now or at == math.inf:
            return CredentialUnavailable(
                "No OpenAI credential of this service can be used at the moment. Its owner may have to sign in again.",
                detail=f"no member of the pool {pool.tag} can be used",
                retry_after_seconds=RETRY_SECONDS,
            )
        return PoolUsedUp(
            f"The subscription is used up. It can be used again at {_utc(at)}.",
            resets_at=math.ceil(at),
            resets_in_seconds=math.ceil(at - now),
            figure_fields=figure_fields(figures(uses, now)),
        )

    def _pick(self, pool: Pool, uses: Sequence[AccountUse], now: float) -> AccountUse | None:
        if not uses:
            return None
        counter = self.affinity.next_count(pool.tag) if pool.strategy == "round-robin" else 0
        return pick(pool.strategy, uses, now, counter=counter, choose=random.randrange)

    def _member(self, pool: Pool, use: AccountUse | None) -> UpstreamAccount | None:
        return None if use is None else next(member for member in pool.members if member.tag == use.tag)


def _utc(time: float) -> str:
    return f"{datetime.fromtimestamp(math.ceil(time), timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
