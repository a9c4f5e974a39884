"""The fields about rate limits for users of a pool: they see the windows of all its accounts as one. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ocm_wsgi.protocol.http.fields import Fields
from ocm_wsgi.quota.choosing import Figures
from ocm_wsgi.quota.limits import LENGTHS

# What describes one account: its windows, credits, plan, and the limit that it has reached.
_OF_ACCOUNT = re.compile(
    r"x-.+-(?:primary|secondary)-.+|x-.+-limit-name|x-codex-(?:active-limit|credits-.+|plan-type|rate-limit-reached-type)",
    re.IGNORECASE | re.ASCII,
)


def pool_fields(fields: Iterable[tuple[str, str]], figures: Figures) -> Fields:
    """Return the fields of a response with the windows of the pool in place of those of the account."""
    kept = [(name, value) for name, value in fields if not _OF_ACCOUNT.fullmatch(name)]
    return [*kept, *figure_fields(figures).items()]


def figure_fields(figures: Figures) -> Mapping[str, str]:
    """Return the fields that describe the windows; none for what is not known."""
    fields = {}
    for place, window, period in (("primary", figures.short, "5h"), ("secondary", figures.week, "week")):
        if window is None:
            continue
        prefix = f"x-codex-{place}-"
        fields[prefix + "used-percent"] = f"{window.used_percent:.2f}"
        fields[prefix + "window-minutes"] = str(LENGTHS["5h" if period == "5h" else "week"] // 60)
        if window.resets_at:
            fields[prefix + "reset-at"] = str(round(window.resets_at))
    return fields
