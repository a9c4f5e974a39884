"""The age of the price data that costs are computed from, and models that it does not have."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from importlib.metadata import distribution

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.pricing import has_price
from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.config import Config
from ocm_wsgi.errors import StateError
from ocm_wsgi.quota.limits import DAY_SECONDS
from ocm_wsgi.storage.database import Database
from ocm_wsgi.users.accounts import Accounts

_SUBJECT = Subject("prices")
_PACKAGE = "genai-prices"
_OLD_DAYS = 90
_RECENT_DAYS = 30
_MOST_NAMED = 10


def findings(*, now: float | None = None) -> Iterator[Finding]:
    """Report the age of the price data. It carries no date, but is at least as old as its installation."""
    package = distribution(_PACKAGE)
    installed_at = os.stat(str(package.locate_file("genai_prices/__init__.py"))).st_mtime
    days = max(0, int(((time.time() if now is None else now) - installed_at) // 86400))
    text = f"Prices are those of {_PACKAGE} {package.version}, installed {f'{days} days ago' if days else 'today'}"
    if days > _OLD_DAYS:
        yield _SUBJECT.note("old", f"{text}; newer models may be missing.", f"pip install --upgrade {_PACKAGE}")
    else:
        yield _SUBJECT.ok("age", f"{text}.")


def unpriced(config: Config) -> Iterator[Finding]:
    """Find models without a price that were used lately, if there are users who are therefore refused them.

    An unusable database is reported by the check of the state.
    """
    with closing(Database(config.database_url, upgrades=False)) as database:
        if database.path is not None and not database.path.exists():
            return
        try:
            limits = [limit for account in Accounts(config.users, database).all() for limit in account.user.limits]
            if not any(limit.unit in ("usd", "percent") for limit in limits):
                return
            with database.read() as connection:
                since = time.time() - _RECENT_DAYS * DAY_SECONDS
                sums = queries.sums(connection, since, None, ("model",), user=None, utc_offset_seconds=0)
        except StateError:
            return
    now = datetime.now(timezone.utc)
    used = (str(each.group["model"]) for each in sums if each.counts.turns_unpriced)
    models = [model for model in used if model and not has_price(model, now, config.prices)]
    if models:
        named = ", ".join(models[:_MOST_NAMED]) + (", ..." if len(models) > _MOST_NAMED else "")
        yield _SUBJECT.warning(
            "missing",
            f"There is no price for {named}: users with limits in USD or percent are refused them.",
            f"Set `prices` in the configuration, or pip install --upgrade {_PACKAGE}",
        )
