"""Queries of ``/ocm/v1/usage`` and their results, as JSON values. No Flask."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.queries import Counts, Dimension, Sum
from ocm_wsgi.config import times
from ocm_wsgi.errors import BadRequest
from ocm_wsgi.quota.limits import MICRO_PER_USD
from ocm_wsgi.reporting.status import iso, sees_all
from ocm_wsgi.users.user import User

PARAMETERS = ("since", "until", "by", "user")
DIMENSIONS: tuple[Dimension, ...] = ("user", "model", "service_tier", "hour", "day", "week")
#: Beside them, for those who see everything: others do not learn which accounts there are.
OWNERS_DIMENSIONS: tuple[Dimension, ...] = ("user", "credential", *DIMENSIONS[1:])

#: Most rows of one result. An hour, a user and a model make one.
MAX_ROWS = 10_000

_TIME_DIMENSIONS: frozenset[Dimension] = frozenset({"hour", "day", "week"})
# The end of the year 9999, the last that RFC 3339 can represent, in Unix seconds.
_MAX_TIME = 253_402_300_800


@dataclass(frozen=True)
class UsageQuery:
    """A query for usage.

    :ivar since: Unix seconds, or ``None`` for the first turn.
    :ivar until: Unix seconds, or ``None`` for now.
    :ivar user: the user whose turns are summed, or ``None`` for all users.
    """

    since: float | None
    until: float | None
    by: tuple[Dimension, ...]
    user: str | None


def parse(parameters: Mapping[str, Sequence[str]], requester: User) -> UsageQuery:
    """Parse a query from a URL's parameters.

    A user who is not an admin gets their own usage; naming another user is refused, whether that user exists or not.

    :raises BadRequest: with a sentence that says what is wrong.
    """
    unknown = [name for name in parameters if name not in PARAMETERS]
    if unknown:
        raise BadRequest(f"The supported parameters are {', '.join(PARAMETERS)}.")
    if any(len(values) > 1 for values in parameters.values()):
        raise BadRequest("Each parameter can be given only once; `by` takes several groups, separated by commas.")
    given = {name: values[0] for name, values in parameters.items() if values and values[0]}
    user = given.get("user")
    allowed = OWNERS_DIMENSIONS if sees_all(requester) else DIMENSIONS
    if not sees_all(requester):
        if user not in (None, requester.name):
            raise BadRequest("You can request only your own usage: leave out `user`.")
        user = requester.name
    return UsageQuery(
        _time(given.get("since"), "since"), _time(given.get("until"), "until"), _groups(given, allowed), user
    )


def run(ledger: Ledger, query: UsageQuery) -> dict[str, Any]:
    """Sum up the usage.

    :raises BadRequest: the result would be too long.
    :raises StateError: the database cannot be read.
    """
    sums = ledger.sums(query.since, query.until, query.by, user=query.user)
    if len(sums) > MAX_ROWS:
        raise BadRequest(f"The result would have {len(sums)} rows; request a shorter time or fewer groups.")
    return {
        "since": iso(query.since),
        "until": iso(query.until),
        "by": list(query.by),
        "rows": [{**_group(sum_), **_as_json(sum_.counts)} for sum_ in sums],
        "total": _as_json(_total(sums)),
    }


def _as_json(counts: Counts) -> dict[str, Any]:
    """Return the counts by name, with the cost in dollars."""
    members: dict[str, Any] = asdict(counts)
    members["cost_usd"] = members.pop("cost_micro_usd") / MICRO_PER_USD
    return members


def _groups(given: Mapping[str, str], allowed: Sequence[Dimension]) -> tuple[Dimension, ...]:
    names = [name.strip() for name in given.get("by", "model").split(",")]
    groups = tuple(dimension for dimension in get_args(Dimension) if dimension in names and dimension in allowed)
    if len(groups) != len(names):
        raise BadRequest(f"`by` takes these groups, each at most once, separated by commas: {', '.join(allowed)}.")
    return groups


def _time(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        time = float(int(text)) if re.fullmatch(r"\d{1,12}", text, re.ASCII) else times.parse_utc(text)
    except (ValueError, OverflowError):
        time = -1.0
    if not 0 <= time < _MAX_TIME:
        raise BadRequest(
            f"`{name}` must be a date (2027-01-31, in UTC), a time (2027-01-31T18:00:00Z) or Unix seconds."
        )
    return time


def _group(sum_: Sum) -> dict[str, Any]:
    return {
        name: iso(value) if name in _TIME_DIMENSIONS and isinstance(value, int) else value
        for name, value in sum_.group.items()
    }


def _total(sums: Sequence[Sum]) -> Counts:
    names = Counts.__dataclass_fields__
    return Counts(**{name: sum(getattr(sum_.counts, name) for sum_ in sums) for name in names})
