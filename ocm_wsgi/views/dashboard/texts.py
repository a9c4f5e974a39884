"""Template filters that format numbers, times and states."""

from __future__ import annotations

from datetime import datetime, timezone

from flask import Blueprint
from markupsafe import Markup

from ocm_wsgi.admission.admission import LimitUsage
from ocm_wsgi.quota.limits import MICRO_PER_USD
from ocm_wsgi.reporting.units import units_text

_TIME_FORMATS = {
    "time": "%Y-%m-%d %H:%M UTC",
    "weekday": "%A %H:%M UTC",
    "day": "%a %-d %b",
    "date": "%Y-%m-%d",
}
_EVENTS = {
    "signin": "signed in",
    "signin.failed": "failed to sign in",
    "signout": "signed out",
    "user.added": "added a user",
    "user.updated": "changed a user",
    "user.token_rotated": "gave a user a new token",
    "user.removed": "removed a user",
}
_STATUSES = {
    "completed": "done",
    "incomplete": "incomplete",
    "failed": "failed",
    "cut": "interrupted",
    "error": "refused",
    "in_progress": "in the background",
}


def add_filters(blueprint: Blueprint) -> None:
    """Register the filters."""
    for filter_ in (usd, short, integer, percent, moment, duration, used, event, outcome, user_name, units_text):
        blueprint.add_app_template_filter(filter_)


def usd(micro: int | None) -> str:
    """Format micro-dollars as dollars."""
    if micro is None:
        return "no price"
    if 0 < micro < MICRO_PER_USD // 100:
        return "< $0.01"
    dollars = micro / MICRO_PER_USD
    return f"${dollars:,.0f}" if dollars >= 1000 else f"${dollars:,.2f}"


def short(number: int) -> str:
    """Format a large number with a suffix."""
    for factor, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            part = number / factor
            return f"{part:.1f} {suffix}" if part < 10 else f"{part:.0f} {suffix}"
    return str(number)


def integer(number: int) -> str:
    """Format a large number in full."""
    return f"{number:,}"


def percent(number: float | None) -> str:
    """Format a percentage, as a whole number unless it is below 1."""
    if number is None:
        return "–"
    return f"{number:.1f} %" if 0 < number < 1 else f"{number:.0f} %"


def moment(at: float | None, form: str = "time") -> str:
    """Format a time in UTC. JavaScript shows the forms ``time`` and ``weekday`` in the browser's own time zone."""
    if at is None:
        return "–"
    when = datetime.fromtimestamp(at, timezone.utc)
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(
        when.strftime("%Y-%m-%dT%H:%M:%SZ"), form, when.strftime(_TIME_FORMATS[form])
    )


def duration(milliseconds: float) -> str:
    """Format a duration."""
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 7200 else f"{seconds // 3600:.0f} h"


def used(use: LimitUsage) -> str:
    """Format how much of a limit is used, in its own unit."""
    if use.limit.unit == "percent":
        return percent(float(use.used))
    if use.limit.unit == "usd":
        return usd(int(use.used * MICRO_PER_USD))
    return short(int(use.used))


def event(kind: str) -> str:
    """Return the text for a kind of event."""
    return _EVENTS.get(kind, kind)


def outcome(status: str) -> str:
    """Return the text for a turn's status."""
    return _STATUSES.get(status, status)


def user_name(name: str) -> str:
    """Return a user's name; turns from before there were users have none."""
    return name or "anyone"
