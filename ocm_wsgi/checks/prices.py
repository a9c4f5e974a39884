"""The age of the price data that costs are computed from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import distribution

from ocm_wsgi.checks.finding import Finding, Subject

_SUBJECT = Subject("prices")
_PACKAGE = "genai-prices"
_OLD_DAYS = 90


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
