"""What a user's turns usually take, by their last ones: what is reserved for those in progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.queries import TurnUse
from ocm_wsgi.quota.limits import Totals
from ocm_wsgi.storage.database import Database

#: What a turn is expected to use as long as nothing is known of its user's turns: a longer one of Codex.
UNKNOWN_TURN = Totals(requests=1, tokens=50_000, cost_micro_usd=250_000)

#: The last turns of a user that say what the next one will take.
TYPICAL_TURNS = 20

#: The last turns of a user are read again after this time, in seconds.
CACHED_SECONDS = 10.0

_MOST_CACHED = 1000


class Expectations:
    """Expects turns to use what the user's last ones did. Thread-safe.

    :param monotonic: a monotonic clock, in seconds.
    """

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._cached: dict[str, tuple[float, Sequence[TurnUse]]] = {}

    def expected(self, user: str, model: str | None, input_tokens: int = 0) -> Totals:
        """Return what the next turn of a user is expected to use.

        :param input_tokens: of its request, estimated.
        :raises StateError: the database cannot be read.
        """
        return with_input(typical(self._last_turns(user), model), input_tokens)

    def expected_in_background(self, user: str) -> list[tuple[float, Totals]]:
        """Return what a user's turns in the background are expected to use beyond what they are charged so far.

        Each comes with its time, in Unix seconds. They are counted as requests already.

        :raises StateError: the database cannot be read.
        """
        with self._database.read() as connection:
            charged = queries.turns_in_background(connection, user)
        return [(started_at, _beyond(self.expected(user, use.model), use)) for started_at, use in charged]

    def _last_turns(self, user: str) -> Sequence[TurnUse]:
        now = self._monotonic()
        read_at, uses = self._cached.get(user, (-math.inf, ()))
        if now - read_at < CACHED_SECONDS:
            return uses
        with self._database.read() as connection:
            uses = queries.last_turns(connection, user)
        # The first turn of a user counts at once.
        if uses:
            if len(self._cached) >= _MOST_CACHED:
                self._cached.clear()
            self._cached[user] = now, uses
        return uses


def typical(uses: Sequence[TurnUse], model: str | None) -> Totals:
    """Return what a turn usually takes: the mean of the last turns that used anything.

    :param uses: newest first. Turns of the same model count if there are any, otherwise those of all models.
    """
    used = [use for use in uses if use.tokens or use.cost_micro_usd]
    alike = ([use for use in used if use.model == model] or used)[:TYPICAL_TURNS]
    if not alike:
        return UNKNOWN_TURN
    tokens, cost = sum(use.tokens for use in alike), sum(use.cost_micro_usd for use in alike)
    return Totals(1, math.ceil(tokens / len(alike)), math.ceil(cost / len(alike)))


def with_input(usual: Totals, input_tokens: int) -> Totals:
    """Return what a turn is expected to use whose input may already exceed all that is usual, at the usual rate."""
    if input_tokens <= usual.tokens or not usual.tokens:
        return usual
    return Totals(1, input_tokens, math.ceil(usual.cost_micro_usd * input_tokens / usual.tokens))


def _beyond(expected: Totals, charged: TurnUse) -> Totals:
    tokens, cost = expected.tokens - charged.tokens, expected.cost_micro_usd - charged.cost_micro_usd
    return Totals(0, max(tokens, 0), max(cost, 0))
