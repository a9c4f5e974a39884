"""Reading dates and times, as the configuration, the command line, queries and forms contain them. Pure; no I/O."""

from __future__ import annotations

import re
from datetime import datetime, timezone


def parse(text: str) -> datetime:
    """Read a date or a time in ISO 8601, such as ``2027-01-31T18:00:00Z``, with or without a zone.

    :raises ValueError: it is neither.
    """
    return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))


def parse_utc(text: str) -> float:
    """Read a date or a time in ISO 8601 as Unix seconds, in UTC if it names no zone.

    :raises ValueError: it is neither.
    :raises OverflowError: it is out of the platform's range.
    """
    moment = parse(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def parse_day(text: str) -> float:
    """Read a date such as ``2027-01-31`` as Unix seconds of its start in UTC.

    :raises ValueError: it is no such date.
    """
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc).timestamp()
