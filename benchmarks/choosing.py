"""The cost of choosing an account of a pool: ``python -m benchmarks.choosing``.

For one of 20 accounts, by each strategy: the CPU time of one choice, and of knowing what is left of the accounts. It is
part of every request of a pool, and the choice must stay below 30 microseconds. A service without pools has none.
"""

from __future__ import annotations

import tempfile
import time
import timeit
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import get_args

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.config import AccountConfig
from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.pools.uses import AccountUses
from ocm_wsgi.protocol.responses.rate_limits import RateLimit, RateLimits, RateLimitWindow
from ocm_wsgi.quota.choosing import AccountUse, Strategy, WindowUse, pick
from ocm_wsgi.storage.database import Database

ACCOUNTS = 20
CHOICES = 5_000
ROUNDS = 5


def microseconds(call: Callable[[], object]) -> float:
    """Return the least CPU time of one call among several rounds."""
    return min(timeit.repeat(call, timer=time.process_time, number=CHOICES, repeat=ROUNDS)) / CHOICES * 1e6


def accounts(now: float) -> list[AccountUse]:
    """Return accounts whose windows are used to different degrees."""
    return [
        AccountUse(
            str(number),
            cap_5h=99,
            cap_weekly=99,
            short=WindowUse(number, now + 3600),
            week=WindowUse(3 * number, now + 86400 * (number % 7 + 1)),
        )
        for number in range(ACCOUNTS)
    ]


def known_uses(folder: Path) -> tuple[AccountUses, Database]:
    """Return what is left of the accounts as a worker knows it, and the database to close."""
    database, now = Database(f"sqlite:///{folder}/ocm.db"), time.time()
    ledger = Ledger(database, Spool(folder / "spool"))
    configured = [AccountConfig(str(number), folder / "auth.json", None, None, 99, 99) for number in range(ACCOUNTS)]
    for number in range(ACCOUNTS):
        week = RateLimitWindow(3.0 * number, 10080, int(now) + 86400)
        ledger.note_rate_limits(str(number), RateLimits((RateLimit("codex", None, week),)), now)
    return AccountUses(configured, ledger, Blocks(database), lambda _tag: "plus"), database


def main() -> None:
    """Print the table."""
    now = time.time()
    found = accounts(now)
    strategies: tuple[Strategy, ...] = get_args(Strategy)
    for strategy in strategies:
        cost = microseconds(lambda strategy=strategy: pick(strategy, found, now, counter=7))  # type: ignore[misc]
        print(f"{strategy:<24} {cost:6.2f} µs")
    with tempfile.TemporaryDirectory() as folder:
        uses, database = known_uses(Path(folder))
        with closing(database):
            print(
                f"{'what is left (per s: DB)':<24} {microseconds(lambda: uses.of(map(str, range(ACCOUNTS)))):6.2f} µs"
            )


if __name__ == "__main__":
    main()
