"""The account of a pool with which a WebSocket was opened: it serves every turn on it, as long as it may be used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ocm_wsgi.errors import OcmError, ReconnectNeeded
from ocm_wsgi.pools.pool import Pool, Pools
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.account_refusal import account_refusal
from ocm_wsgi.protocol.websocket.pool_limits import limits_frame

_MOVED = "The subscription that serves this WebSocket is used up for now. Open another WebSocket."


class PoolSocket:
    """One WebSocket's account. Thread-safe.

    When the account cannot be used any more, the client is asked to open another WebSocket, which the pool serves with
    another account. Codex does so, and sends everything again.

    :param tag: of the account.
    """

    def __init__(self, pools: Pools, pool: Pool, tag: str) -> None:
        self._pools = pools
        self._pool = pool
        self._tag = tag

    def begin_turn(self) -> Callable[[], None]:
        """Count a turn, and return a function that ends it. May query the database.

        :raises ReconnectNeeded: another account must serve it.
        :raises PoolUsedUp: none can.
        """
        if not self._pools.is_usable(self._tag):
            raise ReconnectNeeded(_MOVED) if self._pools.has_another(self._pool, self._tag) else self._exhausted()
        return self._pools.uses.in_flight.begin(self._tag)

    def limited(self, fields: Sequence[tuple[str, str]], event: Mapping[str, Any]) -> OcmError | None:
        """Return what the client gets in place of a 429 of upstream's, without waiting; ``None`` for the 429 itself.

        :param fields: of the response that the event stands for.
        """
        refusal = account_refusal(429, fields, lambda: event, self._pools.clock())
        if refusal is None or refusal.blocked_until is None:
            return None
        blocks, until, reason = self._pools.blocks, refusal.blocked_until, refusal.reason
        blocks.note(self._tag, until, reason)
        threading.Thread(target=lambda: blocks.store(self._tag, pool=self._pool.tag), daemon=True).start()
        is_another_usable = self._pools.has_another(self._pool, self._tag, is_cached=True)
        return ReconnectNeeded(_MOVED) if is_another_usable else None

    def shown_limits(self, text: bytes) -> bytes:
        """Return a frame with the windows of all accounts, in place of a message about those of this one."""
        limits = rate_limits.from_message(text)
        if limits is not None:
            # The session reports them, too, but only once this has returned.
            self._pools.note_limits(limits, self._tag)
        return limits_frame(text, self._pools.figures(self._pool, is_cached=True))

    def _exhausted(self) -> OcmError:
        return self._pools.exhausted(self._pool)
