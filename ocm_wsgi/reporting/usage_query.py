"""What was used, as JSON can hold it: the question as it stands in a query, and the answer. No Flask."""

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

#: Rows of one answer. An hour, a user and a model make one.
MAX_ROWS = 10_000

_TIMES: frozenset[Dimension] = frozenset({"hour", "day", "week"})
#: The year 9999 ends, in Unix seconds: the last that RFC 3339 can write.
_END_OF_TIME = 253_402_300_800


@dataclass(frozen=True)
class Question:
    """What somebody wants to know.

    :ivar since: Unix seconds, or ``None`` for all from the first turn on.
    :ivar until: Unix seconds, or ``None`` for all up to now.
    :ivar user: whose turns; ``None`` for everybody's.
    """

    since: float | None
    until: float | None
    by: tuple[Dimension, ...]
    user: str | None


def question(parameters: Mapping[str, Sequence[str]], asking: User) -> Question:
    """Read a question from the parameters of a query.

    Those who do not see all ask about themselves; that they name another is refused, whether there is one or not.

    :raises BadRequest: with a sentence on what is wrong.
    """
    unknown = [name for name in parameters if name not in PARAMETERS]
    if unknown:
        raise BadRequest(f"There are only these parameters: {', '.join(PARAMETERS)}.")
    if any(len(values) > 1 for values in parameters.values()):
        raise BadRequest("Each parameter can be given once; `by` takes several groups with commas between them.")
    given = {name: values[0] for name, values in parameters.items() if values and values[0]}
    user = given.get("user")
    if not sees_all(asking):
        if user not in (None, asking.name):
            raise BadRequest("You can ask for your own usage only: leave `user` out.")
        user = asking.name
    return Question(_time(given.get("since"), "since"), _time(given.get("until"), "until"), _groups(given), user)


def answer(ledger: Ledger, question: Question) -> dict[str, Any]:
    """Add up what was used.

    :raises BadRequest: the answer would be too long.
    :raises StateError: the database cannot be read.
    """
    sums = ledger.sums(question.since, question.until, question.by, user=question.user)
    if len(sums) > MAX_ROWS:
        raise BadRequest(f"That would be {len(sums)} rows; ask for a shorter time or for fewer groups.")
    return {
        "since": iso(question.since),
        "until": iso(question.until),
        "by": list(question.by),
        "rows": [{**_group(sum_), **counts_as_json(sum_.counts)} for sum_ in sums],
        "total": counts_as_json(_total(sums)),
    }


def counts_as_json(counts: Counts) -> dict[str, Any]:
    """The counts by their names, with the cost in dollars."""
    members: dict[str, Any] = asdict(counts)
    members["cost_usd"] = members.pop("cost_micro_usd") / MICRO_PER_USD
    return members


def _groups(given: Mapping[str, str]) -> tuple[Dimension, ...]:
    names = [name.strip() for name in given.get("by", "model").split(",")]
    groups = tuple(dimension for dimension in get_args(Dimension) if dimension in names and dimension in DIMENSIONS)
    if len(groups) != len(names):
        raise BadRequest(f"`by` takes, each once and with commas between them: {', '.join(DIMENSIONS)}.")
    return groups


def _time(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        time = float(int(text)) if re.fullmatch(r"\d{1,12}", text, re.ASCII) else times.parse_utc(text)
    except (ValueError, OverflowError):
        time = -1.0
    if not 0 <= time < _END_OF_TIME:
        raise BadRequest(f"`{name}` is a date (2027-01-31, in UTC), a time (2027-01-31T18:00:00Z) or Unix seconds.")
    return time


def _group(sum_: Sum) -> dict[str, Any]:
    return {
        name: iso(value) if name in _TIMES and isinstance(value, int) else value for name, value in sum_.group.items()
    }


def _total(sums: Sequence[Sum]) -> Counts:
    names = Counts.__dataclass_fields__
    return Counts(**{name: sum(getattr(sum_.counts, name) for sum_ in sums) for name in names})
