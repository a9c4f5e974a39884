"""Gives the turns of one week the same week, although upstream's reports of its end differ by seconds.

The first report of a week decides: the starts of later ones are replaced by the one that is already in the sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from ocm_wsgi.accounting.turn_record import Record
from ocm_wsgi.quota.limits import DAY_SECONDS, LENGTHS, SAME_END_SECONDS
from ocm_wsgi.storage import schema as db
from ocm_wsgi.storage.driver_cursor import DriverCursor

# Starts that one process remembers: a week has at most one for each second that upstream's reports differ by.
_MOST_KNOWN = 500

_HOURS = db.turn_hour.c
_NEAREST = (
    sa.select(_HOURS.week_start)
    .where(
        # By the index of the hours: no turn is outside its week by more than the width of this.
        _HOURS.hour >= sa.bindparam("first_hour", type_=sa.BigInteger),
        _HOURS.hour < sa.bindparam("last_hour", type_=sa.BigInteger),
        _HOURS.credential == sa.bindparam("credential", type_=sa.Text),
        _HOURS.week_start >= sa.bindparam("first", type_=sa.BigInteger),
        _HOURS.week_start <= sa.bindparam("last", type_=sa.BigInteger),
    )
    .order_by(sa.func.abs(_HOURS.week_start - sa.bindparam("week_start", type_=sa.BigInteger)))
)


class Weeks:
    """Knows the weeks in the sums. For one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}

    def aligned(self, cursor: DriverCursor, records: Iterable[Record]) -> list[Record]:
        """Return records with the week that the sums have, where they have one.

        The database is asked once for each start that this process has not seen before.

        :param cursor: in the transaction that writes the records.
        """
        # What is not in the database yet may be rolled back, so it is not remembered beyond this call.
        new: dict[str, list[int]] = {}
        return [self._aligned(cursor, record, new) for record in records]

    def _aligned(self, cursor: DriverCursor, record: Record, new: dict[str, list[int]]) -> Record:
        start = record.get("week_start")
        credential = record.get("credential")
        if not isinstance(start, int) or not isinstance(credential, str) or not start:
            return record
        known = self._known.get((credential, start))
        if known is None:
            known = self._find(cursor, credential, start)
        if known is None:
            starts = new.setdefault(credential, [])
            known = next((other for other in starts if abs(other - start) <= SAME_END_SECONDS), start)
            starts.append(known)
        return record if known == start else {**record, "week_start": known}

    def _find(self, cursor: DriverCursor, credential: str, start: int) -> int | None:
        found: int | None = cursor.scalar(
            _NEAREST,
            {
                "first_hour": start - DAY_SECONDS,
                "last_hour": start + LENGTHS["week"] + DAY_SECONDS,
                "credential": credential,
                "first": start - SAME_END_SECONDS,
                "last": start + SAME_END_SECONDS,
                "week_start": start,
            },
        )
        if found is not None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[credential, start] = found
        return found
