"""Parses dates and times in the configuration, on the command line, in queries and in forms. Pure; no I/O."""

from __future__ import annotations

import re
from datetime import datetime, timezone


def parse(text: str) -> datetime:
    """Parse a date or time in ISO 8601, such as ``2027-01-31T18:00:00Z``, with or without a time zone.

    :raises ValueError: the text is neither.
    """
    return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))


def parse_utc(text: str) -> float:
    """Parse a date or time in ISO 8601, by default in UTC, into Unix seconds.

    :raises ValueError: the text is neither.
    :raises OverflowError: the time is out of the platform's range.
    """
    moment = parse(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def parse_day(text: str) -> float:
    """Parse a date such as ``2027-01-31`` into the Unix seconds of its start in UTC.

    :raises ValueError: the text is not such a date.
    """
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc).timestamp()
